"""The node's side of all jobs: drives the host core and carries out its effects on processes and files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

from agent.common.config import NodeConfig
from agent.common.errors import InvalidMessage
from agent.common.shell import disk, threads
from agent.common.shell.runner import CoreRunner
from agent.rainstorm.host.core.events import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    Effect,
    KillTask,
    PublishOutput,
    Report,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)
from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.host.shell.supervisor import Key, TaskSupervisor
from agent.rainstorm.host.shell.writers import Publisher, SegmentWriter
from agent.rainstorm.io.links import ReportLink
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.messages import control
from agent.rainstorm.messages.commands import Command
from agent.wire.codec.framing import Buffer

logger = logging.getLogger("agent.rainstorm.host.shell.host")


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
        # A new boot writes a new file: late appends of an earlier boot cannot mix with it.
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
            self._on_task_message,
            self._on_task_exit,
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

    def command(self, command: Command) -> None:
        """Takes a command from the leader."""
        self._runner.post(CommandReceived(command))

    def _execute(self, effect: Effect) -> None:
        match effect:
            case AssignTask(job=job, task=task, generation=generation, in_place=in_place, command=command):
                self.supervisor.assign((job, task), generation, in_place, command)
            case TellTask(job=job, task=task, command=told):
                self.supervisor.tell((job, task), told)
            case KillTask(job=job, task=task):
                self.supervisor.kill((job, task))
            case AppendSegments():
                self._segments.put(effect)
            case PublishOutput():
                self._publisher.put(effect)
            case Report(report=report):
                self._reports.send(report)
            case _:
                assert_never(effect)

    def _on_task_message(self, key: Key, pid: int, said: control.TaskMessage, payload: Buffer) -> None:
        job, task = key
        match said:
            case control.Prepared(generation=generation, host=host, port=port, quotes=quotes):
                self._runner.post(TaskPrepared(job, task, generation, host, port, pid, quotes))
            case control.Snapshot(state_bytes=size):
                if size > len(payload):
                    raise InvalidMessage(f"snapshot: {size} bytes of state in {len(payload)} bytes")
                view = memoryview(payload)
                self._runner.post(TaskSnapshot(job, task, said, bytes(view[:size]), bytes(view[size:])))
            case control.EpochWanted(generation=generation, done=done):
                self._runner.post(TaskWantsEpoch(job, task, generation, done))
            case control.Failed(generation=generation, error=error):
                self._runner.post(TaskGone(job, task, generation, error.message, error))
            case _:
                assert_never(said)

    def _on_task_exit(self, key: Key, generation: int, cause: str) -> None:
        logger.warning("task_ended job=%s task=%s cause=%s", *key, cause)
        self._runner.post(TaskGone(*key, generation, cause, None))
