"""The main loop of a task: turns bytes into the events of its core and the core's effects into bytes.

One thread, one selector: the socket to the agent, the listener for upstream tasks, and the input channels
that the core does not hold back. A process is started ahead of its use, with everything imported (a *spare*).
Its agent assigns it a task, and resets it in place for every further generation. It ends when its agent
closes the connection. ``task.py`` is the process around this loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, assert_never

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, ProtocolError, RainStormError
from agent.common.failure import Failure
from agent.common.shell import clock, network, processes
from agent.hydfs.client import HydfsClient
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.job import plan
from agent.rainstorm.job import spec as job
from agent.rainstorm.messages import channel, control
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
from agent.rainstorm.task.shell.arrivals import ARRIVALS_MAX, Arrivals
from agent.rainstorm.task.shell.channel import Channel, connect, decode_batch, encode_batch
from agent.rainstorm.task.shell.identity import Identity, JobIdentity
from agent.rainstorm.task.shell.source import SourceFile
from agent.rainstorm.task.state import keyed as state
from agent.wire.client import Client
from agent.wire.codec.framing import Frame, encode_header
from agent.wire.connection import Connection, Payload

logger = logging.getLogger("agent.rainstorm.task.shell.loop")

AGENT_TIMEOUT_S = 30.0
# The bytes of one turn; then the agent and the other channels get theirs.
FRAMES_IN_A_ROW_MAX = 64


class GenerationOver(Exception):
    """The agent has a newer assignment: the current work of the task is void."""


class AgentGone(Exception):
    """The agent has closed the connection or does not answer: the process has no purpose any more."""


class TaskLoop:
    """The shell around one ``TaskCore``."""

    def __init__(
        self,
        sock: network.Socket,
        host: str,
        hydfs_socket: str,
        make_identity: Callable[[bytes], Identity] = JobIdentity,
    ) -> None:
        self._control = Connection(sock, "agent")
        self._client = Client(None)
        self._storage = Storage(HydfsClient(self._client, hydfs_socket))
        self._host = host
        self._make_identity = make_identity
        self._listener = network.listen_tcp(host, 0, ARRIVALS_MAX)
        self._selector = network.selector()
        self._arrivals = Arrivals(self._listener, self._selector, self._welcome)
        self._selector.register(sock, network.EVENT_READ, self._take_command)
        self._selector.register(
            self._listener, network.EVENT_READ, lambda: self._arrivals.accept(self._identity)
        )
        self._commands: deque[control.Command] = deque()
        self._task = ""
        self._generation = 0
        self._core: TaskCore | None = None
        self._identity: Identity | None = None
        self._inputs: dict[str, Channel] = {}
        self._outputs: dict[str, Channel] = {}
        # The inputs that the selector waits for: those that the core does not hold back.
        self._watched: set[str] = set()
        self._unread: set[str] = set()
        self._assigned: control.Assign | None = None
        self._running = False
        self._source: SourceFile | None = None

    def run(self) -> None:
        """Works until the agent closes the connection."""
        try:
            port = self._listener.getsockname()[1]
            self._send_header(control.FIRST_OF_TASK.encode(control.Hello(processes.own_pid(), port)))
            while True:
                self._try_step()
        except AgentGone:
            return
        finally:
            self._halt()
            self._arrivals.close()
            self._selector.close()
            self._listener.close()
            self._control.close()
            self._client.close()

    # -- the loop -------------------------------------------------------------------------------------

    def _try_step(self) -> None:
        try:
            self._step()
        except GenerationOver:
            pass  # the next step follows the new assignment
        except ConnectionLost as error:
            # A neighbour is gone. The neighbour's agent tells the leader; this task waits for the reset.
            logger.warning("channel_lost task=%s error=%s", self._task, error)
            self._halt()
        except RainStormError as error:
            logger.exception("task_failed task=%s", self._task)
            self._halt()
            self._send_message(control.Failed(self._generation, Failure.of(error), self._task))

    def _step(self) -> None:
        while self._commands:
            self._execute(self._commands.popleft())
        for key, _ in self._selector.select(self._timeout_s()):
            key.data()
        self._arrivals.drop_late()
        for peer in sorted(self._unread):
            self._take_from(peer)
        if self._running and not self._commands:
            self._read_source()

    def _timeout_s(self) -> float | None:
        if self._commands or self._unread:
            return 0.0
        arrivals_s = self._arrivals.wait_s()
        if not self._running or self._source is None or self._core is None:
            return arrivals_s
        if self._core.next_read(1) is None:
            return arrivals_s
        source_s = self._source.wait_s()
        return source_s if arrivals_s is None else min(source_s, arrivals_s)

    def _take_command(self) -> None:
        self._commands.append(self._receive_command())

    def _receive_command(self) -> control.Command:
        try:
            frame = self._control.receive(Deadline(clock.monotonic(), AGENT_TIMEOUT_S))
            return control.TO_TASK.decode(frame.header)
        except ConnectionLost as error:
            raise AgentGone(str(error)) from None  # the usual end of a process
        except RainStormError as error:
            logger.error("agent_lost task=%s error=%s", self._task, error)
            raise AgentGone(str(error)) from None

    def _send_message(self, message: control.TaskMessage, payload: Payload = b"") -> None:
        self._send_header(control.FROM_TASK.encode(message), payload)

    def _send_header(self, header: dict[str, Any], payload: Payload = b"") -> None:
        try:
            self._control.send(header, payload, Deadline(clock.monotonic(), AGENT_TIMEOUT_S))
        except RainStormError as error:
            raise AgentGone(str(error)) from None

    def _halt(self) -> None:
        self._running = False
        self._close_channels()

    # -- commands of the agent ------------------------------------------------------------------------

    def _execute(self, command: control.Command) -> None:
        match command:
            case control.Assign():
                self._assign(command)
            case control.Start():
                self._start(command)
            case control.Trigger(epoch=epoch, committed=committed):
                if self._running and self._core is not None and command.generation == self._generation:
                    self._do(self._core.handle(EpochTriggered(epoch, committed)))
            case _:
                assert_never(command)

    def _assign(self, command: control.Assign) -> None:
        self._halt()
        self._generation = command.generation
        self._task = command.task
        spec = job.parse(command.spec)
        header = command.header
        layout = plan.make(spec, header)
        if self._core is None or not command.in_place:
            core = TaskCore(self._task, spec, layout)
            for file, offset, length in command.segments:
                core.load(state.decode_changes(self._storage.read_exactly(file, offset, length)))
            self._core = core
        if self._core.is_source and self._source is None:
            self._source = SourceFile(self._storage, spec, layout, self._task, header)
        self._arrivals.close()  # earlier connections belong to an older generation
        self._identity = self._make_identity(command.identity)
        self._assigned = command
        quotes: dict[int, int] = {}
        if command.survey and self._source is not None:
            quotes = self._source.count_quotes()
        port = self._listener.getsockname()[1]
        self._send_message(control.Prepared(self._generation, self._host, port, quotes, self._task))

    def _start(self, command: control.Start) -> None:
        assigned = self._assigned
        if command.generation != self._generation or self._core is None or assigned is None:
            return
        assert self._identity is not None
        hello = channel.Hello(self._task, self._generation)
        for target in self._core.outputs:
            if target not in command.endpoints:
                raise ProtocolError(f"the command to start does not say where task {target} listens")
            host, port = command.endpoints[target]
            self._outputs[target] = connect(self._host, host, port, target, hello, self._identity)
        self._core.reset(
            Restore(command.epoch, assigned.done, assigned.positions, command.inside, *assigned.counts)
        )
        if self._source is not None:
            self._source.restart()
        self._running = True
        for peer in self._inputs:
            self._watch(peer)
        self._do(self._core.start())

    # -- channels -------------------------------------------------------------------------------------

    def _welcome(self, found: Channel, hello: channel.Hello) -> None:
        peer = hello.sender
        current = hello.generation == self._generation
        if not current or self._core is None or peer not in self._core.inputs or peer in self._inputs:
            found.close()
            return
        found.accepted_from(peer)
        self._inputs[peer] = found
        if self._running:
            self._watch(peer)

    def _close_channels(self) -> None:
        for peer in sorted(self._watched):
            self._unwatch(peer)
        for connected in (*self._inputs.values(), *self._outputs.values()):
            connected.close()
        self._inputs, self._outputs, self._unread = {}, {}, set()

    def _take_from(self, peer: str) -> None:
        self._unread.discard(peer)
        for _ in range(FRAMES_IN_A_ROW_MAX):
            if not self._running or peer not in self._inputs or self._hold_back(peer):
                return
            frame = self._inputs[peer].read()
            if frame is None:
                return
            self._receive(peer, frame)
        self._unread.add(peer)

    def _hold_back(self, peer: str) -> bool:
        assert self._core is not None
        if not self._core.blocked(peer):
            return False
        if peer in self._watched:
            self._unwatch(peer)
        return True

    def _watch(self, peer: str) -> None:
        self._watched.add(peer)
        self._selector.register(self._inputs[peer].sock, network.EVENT_READ, partial(self._take_from, peer))
        # A TLS socket may hold decrypted frames that the selector cannot see.
        self._unread.add(peer)

    def _unwatch(self, peer: str) -> None:
        self._watched.discard(peer)
        self._selector.unregister(self._inputs[peer].sock)

    def _receive(self, peer: str, frame: Frame) -> None:
        assert self._core is not None
        item = channel.CHANNEL.decode(frame.header)
        match item:
            case channel.Batch():
                self._do(self._core.handle(BatchReceived(peer, decode_batch(frame.payload))))
            case channel.Barrier(epoch=epoch):
                self._do(self._core.handle(BarrierReceived(peer, epoch)))
                self._release()
            case channel.End():
                self._do(self._core.handle(EndReceived(peer)))
            case _:
                assert_never(item)

    def _release(self) -> None:
        assert self._core is not None
        for peer in self._inputs:
            if peer not in self._watched and not self._core.blocked(peer):
                self._watch(peer)

    # -- effects --------------------------------------------------------------------------------------

    def _read_source(self) -> None:
        if self._source is None or self._core is None or self._source.wait_s() > 0:
            return
        request = self._core.next_read(self._source.read_size())
        if request is None:
            return
        data = self._source.read(request)
        if data is None:
            return
        before = self._core.records
        effects = self._core.handle(SourceRead(request, data))
        self._source.count(self._core.records - before, len(data))
        self._do(effects)

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendBatch(target=target, batch=batch):
                    payload = encode_batch(batch)
                    header = channel.CHANNEL.encode(channel.Batch())
                    self._send(target, encode_header(header, len(payload)))
                    self._send(target, payload)
                case SendBarrier(epoch=epoch):
                    self._send_all(channel.Barrier(epoch))
                case SendEnd():
                    self._send_all(channel.End())
                case RequestEpoch(done=done):
                    self._send_message(control.EpochWanted(self._generation, done, self._task))
                case Snapshot():
                    self._hand_over(effect)
                case _:
                    assert_never(effect)

    def _hand_over(self, snapshot: Snapshot) -> None:
        changes = state.encode_changes(snapshot.changes) if snapshot.changes else b""
        message = control.Snapshot(
            generation=self._generation,
            epoch=snapshot.epoch,
            state_bytes=len(changes),
            base=snapshot.base,
            positions=dict(snapshot.positions),
            done=snapshot.done,
            records=snapshot.records,
            bytes=snapshot.bytes,
            task=self._task,
        )
        self._send_message(message, [changes, snapshot.output])

    def _send_all(self, item: channel.Item) -> None:
        data = encode_header(channel.CHANNEL.encode(item), 0)
        for target in self._outputs:
            self._send(target, data)

    def _send(self, target: str, data: Any) -> None:
        """Sends all of ``data``, listening to the agent while the channel is full."""
        output = self._outputs[target]
        view = memoryview(data).cast("B")
        while view:
            sent = output.write_some(view)
            view = view[sent:]
            if view and sent == 0:
                self._wait_for_room(output)

    def _wait_for_room(self, output: Channel) -> None:
        for sock in network.wait([self._control.sock], [output.sock]):
            if sock is self._control.sock:
                command = self._receive_command()
                self._commands.append(command)
                if isinstance(command, control.Assign):
                    raise GenerationOver
