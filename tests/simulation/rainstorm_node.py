"""A simulated rainstorm agent: mirrors ``service``, ``taskhost``, ``supervisor`` and ``writers``.

The cores are the real ones; commands and reports go as frames over the simulated network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent.common.errors import RainStormError
from agent.common.failure import Failure
from agent.common.message import decode
from agent.rainstorm.host.core.host import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    HostCore,
    KillTask,
    OutputPublished,
    PublicationRefused,
    PublishOutput,
    Report,
    SegmentsAppended,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)
from agent.rainstorm.host.shell.writers import (
    PIECES_PER_EPOCH_MAX,
    SEGMENT_TIMEOUT_S,
)
from agent.rainstorm.io.storage import pieces
from agent.rainstorm.job.segment import PUBLISH_TIMEOUT_S, Reference, segment_file
from agent.rainstorm.leader.core.leader import LeaderCore, ViewChanged
from agent.rainstorm.messages import control
from agent.rainstorm.messages.commands import CommandRequest, Trigger
from agent.rainstorm.messages.reports import ReportRequest
from agent.rainstorm.task.core.processor import TaskCore
from agent.wire.codec.framing import Frame
from tests.simulation.rainstorm_dispatcher import Dispatcher, ReportLink
from tests.simulation.rainstorm_kernel import Rpc, Runner, Thread, Worker
from tests.simulation.rainstorm_store import SimulatedStorage, Store
from tests.simulation.rainstorm_task import TaskProcess
from tests.simulation.world import Node

if TYPE_CHECKING:
    from tests.simulation.rainstorm_watch import Watch

REFILL_DELAY_S = 2.0
SPINS_MAX = 50
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Parts:
    """Which cores and shells a simulation is made of; planted bugs put broken ones here."""

    host: Callable[[str], HostCore] = HostCore
    leader: Callable[[str], LeaderCore] = LeaderCore
    task: Callable[..., TaskCore] = TaskCore
    publication_sequence: Callable[[PublishOutput, int], int] = lambda wanted, number: (
        wanted.epoch * PIECES_PER_EPOCH_MAX + number
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a seed chooses for all agents."""

    spare_tasks: int = 1
    piece_bytes: int = 1 << 20
    segment_file_bytes: int = 1 << 26


class Supervisor:
    """Mirrors ``TaskSupervisor``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._spares: deque[TaskProcess] = deque()
        self.tasks: dict[Key, TaskProcess] = {}
        self._refill()

    def assign(self, key: Key, generation: int, in_place: bool, command: control.Assign) -> None:
        """Mirrors ``TaskSupervisor.assign``."""
        process = self.tasks.get(key)
        if process is not None and (not in_place or not process.alive):
            process.kill()
            process = None
        if process is None:
            command = replace(command, in_place=False)
            process = self._spares.popleft() if self._spares else self._spawn()
            process.key = key
            self.tasks[key] = process
            self._agent.node.after(REFILL_DELAY_S, self._refill)
        process.generation_assigned = generation
        process.send(command)

    def tell(self, key: Key, command: control.Command) -> None:
        """Mirrors ``TaskSupervisor.tell``."""
        if key in self.tasks:
            self.tasks[key].send(command)

    def kill(self, key: Key) -> None:
        """Mirrors ``TaskSupervisor.kill``."""
        process = self.tasks.pop(key, None)
        if process is not None:
            process.key = None
            process.kill()

    def ended(self, process: TaskProcess, cause: str) -> None:
        """Mirrors ``TaskSupervisor.ended``."""
        key = process.key
        if process in self._spares:
            self._spares.remove(process)
        if key is not None and self.tasks.get(key) is process:
            del self.tasks[key]
            self._agent.host.post(TaskGone(*key, process.generation_assigned, cause, None))

    def _refill(self) -> None:
        while len(self._spares) < self._agent.sizes.spare_tasks:
            self._spares.append(self._spawn())

    def _spawn(self) -> TaskProcess:
        watch = self._agent.watch
        process = TaskProcess(self._agent, len(watch.processes))
        watch.processes.append(process)
        return process


@dataclass(slots=True)
class _OpenFile:
    name: str
    size: int = 0
    sequence: int = 0


class SegmentWriter:
    """Mirrors ``writers.SegmentWriter``."""

    def __init__(self, agent: Agent, writer: str) -> None:
        self._agent = agent
        self._writer = writer
        self._open: dict[str, _OpenFile] = {}
        self._files = 0
        self.put = Worker(self._append).put

    def _append(self, wanted: AppendSegments) -> Thread:
        try:
            file, offset = yield from self._write(wanted.job, b"".join(wanted.parts))
        except RainStormError:
            self._open.pop(wanted.job, None)
            return
        references: list[list[Reference]] = []
        for part in wanted.parts:
            references.append([(file, offset, len(part))] if part else [])
            offset += len(part)
        self._agent.host.post(SegmentsAppended(wanted.job, wanted.generation, wanted.epoch, references))

    def _write(self, job: str, data: bytes) -> Thread:
        storage = self._agent.storage
        current = self._open.get(job)
        if current is None or current.size >= self._agent.sizes.segment_file_bytes:
            self._files += 1
            current = _OpenFile(segment_file(job, self._writer, self._files))
            yield from storage.create_if_missing(current.name)
            self._open[job] = current
        begin = current.size
        for piece in pieces(data, self._agent.sizes.piece_bytes):
            current.sequence += 1
            yield from storage.append(
                current.name, piece, self._writer, current.sequence, timeout_s=SEGMENT_TIMEOUT_S
            )
            current.size += len(piece)
        return current.name, begin


class Publisher:
    """Mirrors ``writers.Publisher``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.put = Worker(self._publish).put

    def _publish(self, wanted: PublishOutput) -> Thread:
        storage = self._agent.storage
        try:
            output = wanted.output
            if output is None:
                output = b""
                for file, offset, length in wanted.references:
                    output += yield from storage.read_exactly(file, offset, length)
            for number, piece in enumerate(pieces(output, self._agent.sizes.piece_bytes)):
                yield from storage.append(
                    wanted.sink,
                    piece,
                    f"{wanted.job}/{wanted.task}",
                    self._agent.parts.publication_sequence(wanted, number),
                    timeout_s=PUBLISH_TIMEOUT_S,
                )
        except RainStormError as error:
            if not error.retryable:
                failure = Failure.of(error)
                self._agent.host.post(PublicationRefused(wanted.job, wanted.epoch, wanted.task, failure))
            return
        self._agent.host.post(OutputPublished(wanted.job, wanted.epoch, wanted.task))


class Agent:
    """One node's rainstorm agent; the ``Host`` of a simulated node."""

    def __init__(self, node: Node, store: Store, watch: Watch, parts: Parts, sizes: Sizes) -> None:
        self.node = node
        self.watch = watch
        self.parts = parts
        self.sizes = sizes
        self.storage = SimulatedStorage(store, node)
        self.view = ViewChanged()
        self.rpc = Rpc(node, self._serve)
        self.reports = ReportLink(self)
        self.dispatcher = Dispatcher(self)
        self.host_core = parts.host(node.name)
        self.host = Runner(node, self.host_core, self._execute, self._observe)
        self._term = 0
        boot = f"{node.random('boots').getrandbits(32):08x}"
        self._segments = SegmentWriter(self, f"{node.name}-{boot}")
        self._publisher = Publisher(self)
        self.supervisor = Supervisor(self)
        self._ticks = 0
        self._ticked_at = 0.0

    # -- the node ---------------------------------------------------------------------------------------

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        self.rpc.on_message(sender, data)

    def on_timer(self, now: float) -> None:
        self._ticks = self._ticks + 1 if now == self._ticked_at else 0
        self._ticked_at = now
        assert self._ticks < SPINS_MAX, f"{self.node.name}: the leader core spins: its deadline never moves"
        self.dispatcher.runner.tick()

    def next_deadline(self) -> float | None:
        return self.dispatcher.runner.next_deadline()

    def on_unreachable(self, now: float, target: str) -> None:
        raise AssertionError("agents talk by requests only")

    def check_invariants(self) -> None:
        self.host_core.check_invariants()
        self.dispatcher.core.check_invariants()

    def set_view(self, view: ViewChanged) -> None:
        """Mirrors the follower of the view."""
        if view.version > self.view.version:
            self.view = view
            self.dispatcher.set_view(view)

    def _observe(self, event: Any, effects: list[Any]) -> None:
        if isinstance(event, CommandReceived):
            term = event.command.term
            if term < self._term:
                self.watch.hit("zombie command refused")
                assert not effects, f"R6: {self.node.name} obeys {event.command} after term {self._term}"
            self._term = max(self._term, term)

    def _serve(self, sender: str, header: Mapping[str, Any]) -> dict[str, Any]:
        match header["type"]:
            case "rainstorm.command":
                command = decode(CommandRequest, header).command()
                if isinstance(command, Trigger):
                    self.watch.triggered(command.job, command.generation, command.epoch)
                self.host.post(CommandReceived(command))
            case "rainstorm.report":
                self.dispatcher.report(sender, decode(ReportRequest, header).message())
        return {}

    # -- tasks ------------------------------------------------------------------------------------------

    def _execute(self, effect: Any) -> None:
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
                self.reports.put(report)

    def heard(self, process: TaskProcess, frame: Frame) -> None:
        """Mirrors ``TaskHost._hear``."""
        if process.key is None:
            return
        job, task = process.key
        word = control.FROM_TASK.decode(frame.header)
        match word:
            case control.Prepared(generation=generation, host=host, port=port, quotes=quotes):
                self.host.post(TaskPrepared(job, task, generation, host, port, process.pid, quotes))
            case control.Snapshot(state_bytes=size):
                parts = bytes(frame.payload[:size]), bytes(frame.payload[size:])
                self.host.post(TaskSnapshot(job, task, word, *parts))
            case control.EpochWanted(generation=generation, done=done):
                self.host.post(TaskWantsEpoch(job, task, generation, done))
            case control.Failed(generation=generation, error=error):
                self.host.post(TaskGone(job, task, generation, error.message, error))
