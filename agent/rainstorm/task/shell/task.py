"""A task process: turns bytes into the events of its core and the core's effects into bytes.

One thread, one selector: the socket to the agent, the listener for upstream tasks, and the input channels
that the core does not hold back. The process is started ahead of its use, with everything imported (a
*spare*), gets a task assigned by its agent, and is reset in place for every further generation. It ends when
its agent closes the connection.

The task launcher starts it, with the socket to the agent as standard input:
``python -m agent.rainstorm.task.shell.task --host ADDRESS --hydfs SOCKET --memory BYTES``
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import select
import selectors
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, RainStormError
from agent.common.shell import clock
from agent.hydfs.client import HydfsClient
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.job import plan
from agent.rainstorm.job import spec as job
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
from agent.rainstorm.task.shell.channel import (
    Channel,
    JobIdentity,
    accept,
    connect,
    decode_batch,
    encode_batch,
)
from agent.rainstorm.task.shell.source import SourceFile
from agent.rainstorm.task.state import keyed as state
from agent.wire.client import Client
from agent.wire.codec.framing import Frame, encode_header
from agent.wire.connection import Connection

AGENT_TIMEOUT_S = 30.0
PR_SET_PDEATHSIG = 1
# Then the agent and the other channels get their turn.
FRAMES_IN_A_ROW_MAX = 64


class GenerationOver(Exception):
    """The agent has a newer assignment: whatever the task is doing is void."""


class Task:
    """The process around one ``TaskCore``."""

    def __init__(self, control: socket.socket, host: str, hydfs_socket: str) -> None:
        self._control = Connection(control, "agent")
        self._storage = Storage(HydfsClient(Client(None), hydfs_socket))
        self._host = host
        self._listener = socket.create_server((host, 0), backlog=64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, "control")
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        self._commands: deque[Mapping[str, Any]] = deque()
        self._task = ""
        self._generation = 0
        self._core: TaskCore | None = None
        self._identity: JobIdentity | None = None
        self._inputs: dict[str, Channel] = {}
        self._outputs: dict[str, Channel] = {}
        self._held: set[str] = set()
        self._unread: set[str] = set()
        self._restore: Mapping[str, Any] = {}
        self._running = False
        self._source: SourceFile | None = None

    def run(self) -> None:
        """Works until the agent closes the connection."""
        self._say({"t": "hello", "pid": os.getpid(), "port": self._listener.getsockname()[1]})
        while True:
            try:
                self._step()
            except GenerationOver:
                continue
            except ConnectionLost as error:
                if error.details.get("agent"):
                    return
                # A neighbour is gone. Whoever watches it tells the leader; this task waits for the reset.
                print(f"channel_lost task={self._task} {error}", file=sys.stderr, flush=True)
                self._halt()
            except RainStormError as error:
                self._halt()
                self._complain(error)

    # -- the loop -------------------------------------------------------------------------------------

    def _step(self) -> None:
        while self._commands:
            self._obey(self._commands.popleft())
        for key, _ in self._selector.select(self._patience()):
            match key.data:
                case "control":
                    self._commands.append(self._hear())
                case "listener":
                    self._accept()
                case peer:
                    self._take_from(peer)
        for peer in sorted(self._unread):
            self._take_from(peer)
        if self._running and not self._commands:
            self._read_source()

    def _patience(self) -> float | None:
        if self._commands or self._unread:
            return 0.0
        if not self._running or self._source is None or self._core is None:
            return None
        if self._core.next_read(1) is None:
            return None
        return self._source.wait_s()

    def _hear(self) -> Mapping[str, Any]:
        try:
            frame = self._control.receive(Deadline(clock.monotonic(), AGENT_TIMEOUT_S))
        except RainStormError as error:
            raise ConnectionLost(f"the agent is gone: {error}", details={"agent": True}) from None
        return frame.header

    def _say(self, header: dict[str, Any], payload: Any = b"") -> None:
        try:
            self._control.send(header, payload, Deadline(clock.monotonic(), AGENT_TIMEOUT_S))
        except RainStormError as error:
            raise ConnectionLost(f"the agent is gone: {error}", details={"agent": True}) from None

    def _halt(self) -> None:
        self._running = False
        self._close_channels()

    def _complain(self, error: RainStormError) -> None:
        traceback.print_exc(file=sys.stderr)
        about = {"generation": self._generation, "task": self._task}
        self._say({"t": "error", **about, "error": error.to_wire()})

    # -- commands of the agent ------------------------------------------------------------------------

    def _obey(self, command: Mapping[str, Any]) -> None:
        match command["type"]:
            case "assign":
                self._assign(command)
            case "start":
                self._start(command)
            case "trigger" if self._running and self._core is not None:
                self._do(self._core.handle(EpochTriggered(command["epoch"], command["committed"])))

    def _assign(self, command: Mapping[str, Any]) -> None:
        self._halt()
        self._generation = command["generation"]
        self._task = command["task"]
        spec = job.parse(command["spec"])
        header = command["header"]
        layout = plan.make(spec, header)
        if self._core is None or not command["in_place"]:
            core = TaskCore(self._task, spec, layout)
            for file, offset, length in command["segments"]:
                core.load(state.decode_changes(self._storage.read_exactly(file, offset, length)))
            self._core = core
        if self._core.is_source and self._source is None:
            self._source = SourceFile(self._storage, spec, layout, self._task, header)
        self._identity = JobIdentity(command["identity"])
        self._restore = command
        quotes: dict[int, int] = {}
        if command["survey"] and self._source is not None:
            quotes = self._source.count_quotes()
        self._say(
            {
                "t": "prepared",
                "generation": self._generation,
                "task": self._task,
                "host": self._host,
                "port": self._listener.getsockname()[1],
                "quotes": quotes,
            }
        )

    def _start(self, command: Mapping[str, Any]) -> None:
        if command["generation"] != self._generation or self._core is None:
            return
        assert self._identity is not None
        hello = {"from": self._task, "generation": self._generation}
        for target in self._core.outputs:
            host, port = command["endpoints"][target]
            self._outputs[target] = connect(self._host, host, port, target, hello, self._identity)
        restore = self._restore
        self._core.reset(
            Restore(
                command["epoch"],
                restore["done"],
                dict(restore["positions"]),
                dict(command["inside"]),
                *restore["counts"],
            )
        )
        if self._source is not None:
            self._source.restart_rate()
        self._running = True
        for peer, channel in self._inputs.items():
            self._selector.register(channel.sock, selectors.EVENT_READ, peer)
        self._unread.update(self._inputs)
        self._do(self._core.start())

    # -- channels -------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._identity is None:
            plain, _ = self._listener.accept()
            plain.close()
            return
        sock = accept(self._listener, self._identity)
        if sock is None:
            return
        try:
            hello = Connection(sock, "upstream task").receive(Deadline(clock.monotonic(), 5.0)).header
        except RainStormError:
            sock.close()
            return
        peer = str(hello.get("from"))
        if hello.get("generation") != self._generation or self._core is None or peer not in self._core.inputs:
            sock.close()
            return
        self._inputs[peer] = Channel(sock, peer)
        if self._running:
            self._selector.register(sock, selectors.EVENT_READ, peer)
            self._unread.add(peer)

    def _close_channels(self) -> None:
        for channel in self._inputs.values():
            if channel.sock in self._selector.get_map():
                self._selector.unregister(channel.sock)
            channel.close()
        for channel in self._outputs.values():
            channel.close()
        self._inputs, self._outputs, self._held, self._unread = {}, {}, set(), set()

    def _take_from(self, peer: str) -> None:
        # A TLS socket may hold decrypted frames that the selector cannot see: what is left is noted as
        # unread.
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
        if peer not in self._held:
            self._held.add(peer)
            self._selector.unregister(self._inputs[peer].sock)
        return True

    def _receive(self, peer: str, frame: Frame) -> None:
        assert self._core is not None
        match frame.header["t"]:
            case "batch":
                self._do(self._core.handle(BatchReceived(peer, decode_batch(frame.payload))))
            case "barrier":
                self._do(self._core.handle(BarrierReceived(peer, frame.header["epoch"])))
                self._release()
            case "end":
                self._do(self._core.handle(EndReceived(peer)))

    def _release(self) -> None:
        assert self._core is not None
        freed = [peer for peer in self._inputs if peer in self._held and not self._core.blocked(peer)]
        for peer in freed:
            self._held.discard(peer)
            self._selector.register(self._inputs[peer].sock, selectors.EVENT_READ, peer)
        self._unread.update(freed)

    # -- effects --------------------------------------------------------------------------------------

    def _read_source(self) -> None:
        if self._source is None or self._core is None or self._source.wait_s() > 0:
            return
        request = self._core.next_read(self._source.read_size())
        if request is None:
            return
        data = self._source.read(request)
        before = self._core.records
        effects = self._core.handle(SourceRead(request, data))
        self._source.count(self._core.records - before, len(data))
        self._do(effects)

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendBatch(target=target, batch=batch):
                    payload = encode_batch(batch)
                    self._send(target, encode_header({"t": "batch"}, len(payload)))
                    self._send(target, payload)
                case SendBarrier(epoch=epoch):
                    self._send_all({"t": "barrier", "epoch": epoch})
                case SendEnd():
                    self._send_all({"t": "end"})
                case RequestEpoch(done=done):
                    about = {"generation": self._generation, "task": self._task}
                    self._say({"t": "epoch-wanted", **about, "done": done})
                case Snapshot():
                    self._hand_over(effect)

    def _hand_over(self, snapshot: Snapshot) -> None:
        changes = state.encode_changes(snapshot.changes) if snapshot.changes else b""
        header = {
            "t": "snapshot",
            "generation": self._generation,
            "task": self._task,
            "epoch": snapshot.epoch,
            "state_bytes": len(changes),
            "base": snapshot.base,
            "positions": dict(snapshot.positions),
            "done": snapshot.done,
            "records": snapshot.records,
            "bytes": snapshot.bytes,
        }
        self._say(header, [changes, snapshot.output])

    def _send_all(self, header: dict[str, Any]) -> None:
        data = encode_header(header, 0)
        for target in self._outputs:
            self._send(target, data)

    def _send(self, target: str, data: Any) -> None:
        """Sends all of ``data``, listening to the agent while the channel is full."""
        channel = self._outputs[target]
        view = memoryview(data).cast("B")
        while view:
            sent = channel.write_some(view)
            view = view[sent:]
            if view and sent == 0:
                self._wait_for_room(channel)

    def _wait_for_room(self, channel: Channel) -> None:
        poller = select.poll()
        poller.register(channel.sock, select.POLLOUT)
        poller.register(self._control.sock, select.POLLIN)
        for descriptor, _ in poller.poll():
            if descriptor == self._control.sock.fileno():
                command = self._hear()
                self._commands.append(command)
                if command["type"] == "assign":
                    raise GenerationOver


def main() -> None:
    """Runs a task process."""
    parser = argparse.ArgumentParser(description="RainStorm task process; started by the task launcher only")
    parser.add_argument("--host", required=True)
    parser.add_argument("--hydfs", required=True)
    parser.add_argument("--memory", type=int, required=True)
    arguments = parser.parse_args()
    # A runaway operator gets a MemoryError instead of taking the machine down.
    resource.setrlimit(resource.RLIMIT_DATA, (arguments.memory, arguments.memory))
    # No task outlives its launcher, whatever its user code is doing (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    Task(take_control(), arguments.host, arguments.hydfs).run()


def take_control() -> socket.socket:
    """Returns the socket to the agent, which user code must neither read as its input nor pass on."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return control


if __name__ == "__main__":
    main()
