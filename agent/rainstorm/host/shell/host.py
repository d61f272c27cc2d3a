"""The node's side of all jobs: drives the host core and carries out its effects on processes and files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from agent.common.config import NodeConfig
from agent.common.shell import disk, threads
from agent.common.shell.runner import CoreRunner
from agent.rainstorm.host.core.host import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    HostCore,
    KillTask,
    PublishOutput,
    Report,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)
from agent.rainstorm.host.shell.supervisor import Key, TaskSupervisor
from agent.rainstorm.host.shell.writers import Publisher, SegmentWriter
from agent.rainstorm.io.links import ReportLink
from agent.rainstorm.io.storage import Storage
from agent.wire.codec.framing import Frame

logger = logging.getLogger("agent.rainstorm.host.shell.host")

SNAPSHOT_FIELDS = ("base", "positions", "done", "records", "bytes")


class TaskHost:
    """Runs the tasks of this node."""

    def __init__(
        self,
        config: NodeConfig,
        storage: Storage,
        reports: ReportLink,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._reports = reports
        self._core = HostCore(config.name)
        self._runner = CoreRunner("host-core", self._core, self._execute, on_crash=on_crash)
        # A new boot writes a new file: what an earlier one still had under way cannot mix with it.
        writer = f"{config.name}-{threads.unique_id()[:8]}"
        self._segments = SegmentWriter(storage, writer, self._runner.post)
        self._publisher = Publisher(storage, self._runner.post)
        folder = config.log_folder()
        disk.makedirs(folder)
        self.supervisor = TaskSupervisor(
            config.me.address,
            config.socket_path("task/hydfs"),
            folder / "tasks.log",
            config.socket_path("tasks"),
            config.rainstorm.task_launcher == "child",
            config.rainstorm.spare_tasks,
            config.rainstorm.task_memory_bytes,
            self._hear,
            self._miss,
        )

    @property
    def loop(self) -> CoreRunner:
        """Returns the core's loop."""
        return self._runner

    def start(self) -> None:
        """Starts the threads and the first spare processes."""
        self._runner.start()
        self._segments.start()
        self._publisher.start()
        self.supervisor.start()

    def stop(self, timeout_s: float) -> None:
        """Ends all tasks and threads."""
        self.supervisor.stop(timeout_s)
        self._runner.stop(timeout_s)
        self._segments.stop(timeout_s)
        self._publisher.stop(timeout_s)

    def command(self, message: Mapping[str, Any]) -> None:
        """Takes a command of the leader."""
        self._runner.post(CommandReceived(message))

    def _execute(self, effect: Any) -> None:
        match effect:
            case AssignTask(job=job, task=task, generation=generation, in_place=in_place, message=message):
                self.supervisor.assign((job, task), generation, in_place, message)
            case TellTask(job=job, task=task, message=message):
                self.supervisor.tell((job, task), message)
            case KillTask(job=job, task=task):
                self.supervisor.kill((job, task))
            case AppendSegments():
                self._segments.put(effect)
            case PublishOutput():
                self._publisher.put(effect)
            case Report(message=message):
                self._reports.send(message)

    def _hear(self, key: Key, pid: int, frame: Frame) -> None:
        job, task = key
        header = frame.header
        generation = header["generation"]
        match header["t"]:
            case "prepared":
                endpoint = (header["host"], header["port"], pid)
                self._runner.post(TaskPrepared(job, task, generation, *endpoint, header["quotes"]))
            case "snapshot":
                split = header["state_bytes"]
                view = memoryview(frame.payload)
                fields = {name: header[name] for name in SNAPSHOT_FIELDS}
                self._runner.post(
                    TaskSnapshot(
                        job,
                        task,
                        generation,
                        header["epoch"],
                        fields,
                        bytes(view[:split]),
                        bytes(view[split:]),
                    )
                )
            case "epoch-wanted":
                self._runner.post(TaskWantsEpoch(job, task, generation, header["done"]))
            case "error":
                error = header["error"]
                self._runner.post(TaskGone(job, task, generation, str(error["message"]), error))

    def _miss(self, key: Key, generation: int, cause: str) -> None:
        logger.warning("task_ended job=%s task=%s cause=%s", *key, cause)
        self._runner.post(TaskGone(*key, generation, cause, None))
