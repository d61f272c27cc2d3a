"""A simulated task process: mirrors ``agent/rainstorm/task/shell/loop.py`` around the real ``TaskCore``.

Batches, barriers and ends travel as the real frames over ``rainstorm_channel``. Whatever blocks the real
process (loading segments, reading the source, a full channel) blocks this one as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.common.errors import ConnectionLost, RainStormError
from agent.common.failure import Failure
from agent.rainstorm.job import plan
from agent.rainstorm.job import spec as job
from agent.rainstorm.job.boundaries import quotes
from agent.rainstorm.messages import control
from agent.rainstorm.messages.channel import CHANNEL, Barrier, Batch, End, Item
from agent.rainstorm.task.core.processor import (
    BarrierReceived,
    BatchReceived,
    Effect,
    EndReceived,
    EpochTriggered,
    RequestEpoch,
    Restore,
    SendBarrier,
    SendBatch,
    SendEnd,
    Snapshot,
    SourceRead,
    TaskCore,
)
from agent.rainstorm.task.shell.channel import decode_batch, encode_batch
from agent.rainstorm.task.shell.loop import FRAMES_IN_A_ROW_MAX, GenerationOver
from agent.rainstorm.task.state import keyed as state
from agent.wire.codec.framing import Frame, decode, encode, encode_header
from tests.simulation.rainstorm_channel import Channel
from tests.simulation.rainstorm_kernel import Pending, Thread, run_thread, sleep

if TYPE_CHECKING:
    from tests.simulation.rainstorm_node import Agent

CONNECT_TIMEOUT_S = 5.0
RATE_SLICE_S = 0.02


class TaskProcess:
    """One process, as its agent (``TaskProcess`` of the supervisor) and as itself (``Task``)."""

    def __init__(self, agent: Agent, pid: int) -> None:
        self.agent = agent
        self.pid = pid
        self.key: tuple[str, str] | None = None
        self.generation_assigned = 0
        self.alive = True
        self._node_generation = agent.node.generation
        self._commands: deque[control.Command] = deque()
        self._task = ""
        self._generation = 0
        self._identity: Any = None
        self.core: TaskCore | None = None
        self._inputs: dict[str, Channel] = {}
        self._outputs: dict[str, Channel] = {}
        self._knocking: deque[tuple[Channel, str, int, Any, Callable[[bool], None]]] = deque()
        self._assigned: control.Assign | None = None
        self._running = False
        self._source: tuple[str, str, int] | None = None
        self._splits: list[plan.Split] = []
        self._data_start = 0
        self._rate = 0.0
        self._record_bytes = 100.0
        self._next_at = 0.0
        self._idle: Pending | None = None
        self._say_clear_at = self._hear_clear_at = 0.0
        self._rng = agent.node.random("tasks")
        run_thread(self._run(), self.lives)

    def node_lives(self) -> bool:
        """Tells whether the machine is still in the same life."""
        return self.agent.node.up and self.agent.node.generation == self._node_generation

    def lives(self) -> bool:
        """Tells whether the process runs."""
        return self.alive and self.node_lives()

    # -- the agent's end --------------------------------------------------------------------------------

    def send(self, command: control.Command) -> None:
        """Sends a command to the process, in order."""
        node = self.agent.node
        header = decode(encode(Frame(control.TO_TASK.encode(command)))).header
        at = self._hear_clear_at = max(self._hear_clear_at, node.now + self._rng.uniform(0.00005, 0.0005))
        node.after(at - node.now, lambda: self._hear(control.TO_TASK.decode(header)))

    def kill(self) -> None:
        """Ends the process as SIGKILL does: its connections close, its agent hears it."""
        if not self.alive:
            return
        self.alive = False
        for channel in [*self._inputs.values(), *self._outputs.values()]:
            channel.close(self)
        for _, _, _, _, answer in self._knocking:
            answer(False)
        node = self.agent.node
        delay_s = max(0.0, self._say_clear_at - node.now) + 0.001
        node.after(delay_s, lambda: self.agent.supervisor.ended(self, "killed by signal 9"))

    def _hear(self, command: control.Command) -> None:
        self._commands.append(command)
        self.wake()

    def _say(self, word: control.TaskMessage, payload: bytes = b"") -> None:
        node = self.agent.node
        data = encode(Frame(control.FROM_TASK.encode(word), payload))
        at = self._say_clear_at = max(self._say_clear_at, node.now + self._rng.uniform(0.00005, 0.0005))
        node.after(at - node.now, lambda: self.agent.heard(self, decode(data)))

    # -- the loop ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Ends the process's wait, if it waits."""
        idle, self._idle = self._idle, None
        if idle is not None and self.lives():
            self.agent.node.after(0.00001, idle.settle)

    def _wait(self) -> Pending:
        self._idle = Pending()
        return self._idle

    def _run(self) -> Thread:
        yield sleep(self.agent.node, self._rng.uniform(0.15, 0.35))
        while True:
            try:
                yield from self._step()
            except GenerationOver:
                continue
            except ConnectionLost:
                self._halt()
            except RainStormError as error:
                self._halt()
                self._say(control.Failed(self._generation, Failure.of(error), self._task))

    def _step(self) -> Thread:
        while self._commands:
            yield from self._obey(self._commands.popleft())
        while self._knocking:
            self._accept(*self._knocking.popleft())
        worked = False
        for peer in sorted(self._inputs):
            worked = (yield from self._take_from(peer)) or worked
        if self._running and not self._commands:
            worked = (yield from self._read_source()) or worked
        if self._commands or self._knocking:
            return
        yield sleep(self.agent.node, 0.0002) if worked else self._wait()

    def _halt(self) -> None:
        self._running = False
        for channel in [*self._inputs.values(), *self._outputs.values()]:
            channel.close(self)
        self._inputs, self._outputs = {}, {}

    # -- commands ---------------------------------------------------------------------------------------

    def _obey(self, command: control.Command) -> Thread:
        match command:
            case control.Assign():
                yield from self._assign(command)
            case control.Start():
                yield from self._start(command)
            case control.Trigger(epoch=epoch, committed=committed):
                if self._running and self.core is not None and command.generation == self._generation:
                    yield from self._do(self.core.handle(EpochTriggered(epoch, committed)))

    def _assign(self, command: control.Assign) -> Thread:
        self._halt()
        self._generation, self._task = command.generation, command.task
        spec = job.parse(command.spec)
        header = command.header
        layout = plan.make(spec, header)
        if self.core is None or not command.in_place:
            core = self.agent.parts.task(self._task, spec, layout)
            for file, offset, length in command.segments:
                data = yield from self.agent.storage.read_exactly(file, offset, length)
                core.load(state.decode_changes(data))
                self.agent.watch.restored(file, offset)
            self.core = core
        else:
            self.agent.watch.hit("in-place reset")
        if self.core.is_source and self._source is None:
            self._source = (spec.source.file, header.file_id, header.batch_bytes)
            self._splits = [split for split in layout.splits if split.task == plan.index_of(self._task)]
            self._data_start = layout.data_start
            self._rate = spec.source.rate / layout.vertices[0].tasks
        self._identity = (command.job, command.identity)
        self._assigned = command
        counted: dict[int, int] = {}
        if command.survey and self._source is not None:
            counted = yield from self._count_quotes()
        self._say(control.Prepared(self._generation, self.agent.node.name, self.pid, counted, self._task))

    def _start(self, command: control.Start) -> Thread:
        assigned = self._assigned
        if command.generation != self._generation or self.core is None or assigned is None:
            return
        for target in self.core.outputs:
            self._outputs[target] = yield from self._connect(target, command.endpoints[target][1])
        self.core.reset(
            Restore(command.epoch, assigned.done, assigned.positions, command.inside, *assigned.counts)
        )
        self._next_at = self.agent.node.now
        self._running = True
        yield from self._do(self.core.start())

    # -- channels ---------------------------------------------------------------------------------------

    def _connect(self, target: str, port: int) -> Thread:
        node = self.agent.node
        other = self.agent.watch.processes[port]
        answered = Pending()
        channel = Channel(self, other, self._task)

        def knock() -> None:
            cut = node.world.network.is_cut(node.name, other.agent.node.name)
            if other.lives() and not cut:
                other.knocked(channel, self._task, self._generation, self._identity, answer)
            elif not cut:
                answer(False)

        def answer(accepted: bool) -> None:
            error = None if accepted else ConnectionLost(f"cannot connect to task {target}")
            node.world.after(0.0005, answered.settle, None, error)

        node.world.after(0.0005, knock)
        node.after(CONNECT_TIMEOUT_S, lambda: answered.settle(None, ConnectionLost("no answer")))
        yield answered
        return channel

    def knocked(
        self, channel: Channel, peer: str, generation: int, identity: Any, answer: Callable[[bool], None]
    ) -> None:
        """Somebody connects."""
        self._knocking.append((channel, peer, generation, identity, answer))
        self.wake()

    def _accept(
        self, channel: Channel, peer: str, generation: int, identity: Any, answer: Callable[[bool], None]
    ) -> None:
        # Another generation's certificate fails the handshake; the hello is checked besides.
        if self.core is None or identity != self._identity:
            answer(False)
            return
        if generation != self._generation or peer not in self.core.inputs:
            channel.close(self)
        else:
            self._inputs[peer] = channel
        answer(True)

    def _take_from(self, peer: str) -> Thread:
        for _ in range(FRAMES_IN_A_ROW_MAX):
            if not self._running or peer not in self._inputs or self.core is None or self.core.blocked(peer):
                return False
            data = self._inputs[peer].take()
            if data is None:
                return False
            frame = decode(data)
            match CHANNEL.decode(frame.header):
                case Batch():
                    yield from self._do(self.core.handle(BatchReceived(peer, decode_batch(frame.payload))))
                case Barrier(epoch=epoch):
                    yield from self._do(self.core.handle(BarrierReceived(peer, epoch)))
                case End():
                    yield from self._do(self.core.handle(EndReceived(peer)))
        return True

    # -- the source -------------------------------------------------------------------------------------

    def _read_source(self) -> Thread:
        if self._source is None or self.core is None:
            return False
        node = self.agent.node
        file, file_id, batch_bytes = self._source
        size = batch_bytes
        if self._rate:
            if self._next_at > node.now:
                node.after(self._next_at - node.now, self.wake)
                return False
            size = max(1, min(batch_bytes, int(self._rate * RATE_SLICE_S * self._record_bytes)))
        request = self.core.next_read(size)
        if request is None:
            return False
        data = yield from self.agent.storage.read_exactly(file, request.offset, request.size, file_id)
        before = self.core.records
        effects = self.core.handle(SourceRead(request, data))
        records = self.core.records - before
        if self._rate and records:
            self._record_bytes = 0.9 * self._record_bytes + 0.1 * len(data) / records
            self._next_at = max(self._next_at, node.now - 1.0) + records / self._rate
        yield from self._do(effects)
        return True

    def _count_quotes(self) -> Thread:
        assert self._source is not None
        found: dict[int, int] = {}
        for split in self._splits:
            begin = split.start if split.start == self._data_start else split.start - 1
            end = max(begin, split.end - 1)
            data = b""
            if end > begin:
                data = yield from self.agent.storage.read_exactly(
                    self._source[0], begin, end - begin, self._source[1]
                )
            found[split.index] = quotes(data)
        return found

    # -- effects ----------------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> Thread:
        for effect in effects:
            match effect:
                case SendBatch(target=target, batch=batch):
                    payload = encode_batch(batch).to_pybytes()
                    yield from self._send(
                        target, encode_header(CHANNEL.encode(Batch()), len(payload)) + payload
                    )
                case SendBarrier(epoch=epoch):
                    yield from self._send_all(Barrier(epoch))
                case SendEnd():
                    yield from self._send_all(End())
                case RequestEpoch(done=done):
                    self._say(control.EpochWanted(self._generation, done, self._task))
                case Snapshot():
                    self._hand_over(effect)

    def _hand_over(self, snapshot: Snapshot) -> None:
        changes = state.encode_changes(snapshot.changes) if snapshot.changes else b""
        word = control.Snapshot(
            self._generation,
            snapshot.epoch,
            len(changes),
            snapshot.base,
            dict(snapshot.positions),
            snapshot.done,
            snapshot.records,
            snapshot.bytes,
            self._task,
        )
        self._say(word, changes + snapshot.output)

    def _send_all(self, item: Item) -> Thread:
        for target in list(self._outputs):
            yield from self._send(target, encode_header(CHANNEL.encode(item), 0))

    def _send(self, target: str, data: bytes) -> Thread:
        channel = self._outputs[target]
        while channel.full and not channel.broken:
            yield self._wait()
            if any(isinstance(command, control.Assign) for command in self._commands):
                raise GenerationOver
        if channel.broken:
            raise ConnectionLost(f"channel to task {target} broke")
        channel.send(data)
