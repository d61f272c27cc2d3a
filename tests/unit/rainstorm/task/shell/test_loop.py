"""The main loop of a task, with the test as its agent and real sockets between the tasks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, Unavailable
from agent.common.shell import clock
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.messages import control
from agent.rainstorm.messages.channel import Hello
from agent.rainstorm.task.shell import loop as module
from agent.rainstorm.task.shell.channel import Channel, connect
from agent.rainstorm.task.shell.identity import JobIdentity
from agent.rainstorm.task.shell.loop import TaskLoop
from agent.rainstorm.task.state.keyed import decode_changes, encode_changes
from agent.wire.authority import ephemeral_identity
from agent.wire.codec.framing import Frame
from agent.wire.connection import Connection
from tests.support import wait_until
from tests.unit.rainstorm.chain import job_file
from tests.unit.rainstorm.memorystore import MemoryStore

DATA = b"k,v\n" + b"".join(b"k%d,%d\n" % (number % 3, number) for number in range(100))
SPEC = job_file({"operator": "aggregate-by-key", "key": "k"}, format="csv", header=True)
HEADER = SourceHeader(("k", "v"), 4, len(DATA), ((0, 4, len(DATA), 0),), 64, "file-1")
PEM = ephemeral_identity("j-1")


class Process:
    """A task in a thread, and its agent's end of the control socket."""

    def __init__(self, store: MemoryStore) -> None:
        ours, theirs = socket.socketpair()
        self.agent = Connection(ours, "task")
        self.loop = TaskLoop(theirs, "127.0.0.1", "unused")
        self.loop._storage = store.storage()
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()
        hello = control.FIRST_OF_TASK.decode(self.receive().header)
        self.port = hello.port

    def receive(self) -> Frame:
        """Returns the next frame of the task."""
        return self.agent.receive(Deadline(clock.monotonic(), 10.0))

    def hear(self) -> control.TaskMessage:
        """Returns the next message of the task."""
        return control.FROM_TASK.decode(self.receive().header)

    def tell(self, command: control.Command) -> None:
        """Sends a command."""
        self.agent.send(control.TO_TASK.encode(command), b"", Deadline(clock.monotonic(), 5.0))

    def assign(self, task: str, generation: int = 1, **changed: Any) -> control.TaskMessage:
        """Assigns a task and returns the answer."""
        command = control.Assign(
            "j-1", task, generation, SPEC, HEADER, True, PEM, 0, False, (), False, {}, (0, 0)
        )
        self.tell(replace(command, **changed))
        return self.hear()

    def close(self) -> None:
        """Ends the process as its agent does."""
        self.agent.close()
        self._thread.join(5.0)
        assert not self._thread.is_alive()


@pytest.fixture
def store() -> MemoryStore:
    """A store with the job's input."""
    made = MemoryStore()
    made.put_bytes("in", DATA)
    return made


@pytest.fixture
def source(store: MemoryStore) -> Iterator[Process]:
    """A process for the source task."""
    made = Process(store)
    yield made
    made.close()


@pytest.fixture
def sink(store: MemoryStore) -> Iterator[Process]:
    """A process for the task that counts."""
    made = Process(store)
    yield made
    made.close()


def start(source: Process, sink: Process, generation: int = 1, epoch: int = 0) -> None:
    """Starts both tasks."""
    endpoints = {"0.0": ("127.0.0.1", source.port), "1.0": ("127.0.0.1", sink.port)}
    for process in (sink, source):
        process.tell(control.Start(generation, endpoints, {0: False}, epoch))


def snapshot(process: Process) -> tuple[control.Snapshot, bytes, bytes]:
    """Returns the next snapshot of a task, its state and its output."""
    while True:
        frame = process.receive()
        message = control.FROM_TASK.decode(frame.header)
        if isinstance(message, control.Snapshot):
            payload = bytes(frame.payload)
            return message, payload[: message.state_bytes], payload[message.state_bytes :]


def test_two_tasks_run_a_job_to_its_end(source: Process, sink: Process) -> None:
    """They are prepared, started, and read to the end; the last epoch hands over everything."""
    prepared = source.assign("0.0")
    assert prepared == control.Prepared(1, "127.0.0.1", source.port, {0: 0}, "0.0")
    assert sink.assign("1.0") == control.Prepared(1, "127.0.0.1", sink.port, {}, "1.0")
    start(source, sink)
    assert source.hear() == control.EpochWanted(1, True, "0.0")
    assert sink.hear() == control.EpochWanted(1, True, "1.0")
    source.tell(control.Trigger(1, 1, 0))
    read, _, _ = snapshot(source)
    assert (read.done, read.positions, read.records, read.bytes) == (True, {0: len(DATA)}, 100, len(DATA) - 4)
    counted, state, output = snapshot(sink)
    assert decode_changes(state) == {b"k0": 34, b"k1": 33, b"k2": 33}
    assert output == b"k0,34\nk1,33\nk2,33\n"
    assert (counted.epoch, counted.done) == (1, True)


def test_a_task_that_waits_for_the_store_ends_epochs_meanwhile(
    store: MemoryStore, source: Process, sink: Process
) -> None:
    """Nothing was read in them; otherwise the leader would take the task for stalled and end its process."""
    store.gives_up.set()
    for process, task in ((source, "0.0"), (sink, "1.0")):
        process.assign(task, survey=False)
    store.fail("read", Unavailable("no replica answers"), times=1000)
    start(source, sink)
    for epoch in (1, 2):
        source.tell(control.Trigger(1, epoch, epoch - 1))
        said, _, _ = snapshot(source)
        assert (said.epoch, said.done, said.records, said.positions) == (epoch, False, 0, {0: 4})
        assert snapshot(sink)[0].epoch == epoch
    store.work_again("read")
    assert source.hear() == control.EpochWanted(1, True, "0.0")
    source.tell(control.Trigger(1, 3, 2))
    assert snapshot(source)[0].records == 100


def run_to_the_end(source: Process, sink: Process, epoch: int, generation: int) -> bytes:
    """Lets both tasks read to the end, ends an epoch, and returns the state of the task that counts."""
    start(source, sink, generation)
    for process in (source, sink):
        assert isinstance(process.hear(), control.EpochWanted)
    source.tell(control.Trigger(generation, epoch, 0))
    assert snapshot(source)[0].positions == {0: len(DATA)}
    said, state, output = snapshot(sink)
    assert (said.epoch, said.done, output) == (epoch, True, b"k0,34\nk1,33\nk2,33\n")
    return state


def test_a_task_goes_back_in_place(source: Process, sink: Process) -> None:
    """The second run gets the same counts; commands of the first one are ignored."""
    source.assign("0.0")
    sink.assign("1.0")
    run_to_the_end(source, sink, 1, 1)
    source.assign("0.0", 2, in_place=True)
    sink.assign("1.0", 2, in_place=True)
    source.tell(control.Trigger(1, 2, 0))
    run_to_the_end(source, sink, 3, 2)


def test_a_fresh_task_loads_its_segments(store: MemoryStore, source: Process, sink: Process) -> None:
    """Oldest first; a task that had ended before stays so and writes nothing again."""
    source.assign("0.0")
    sink.assign("1.0")
    state = run_to_the_end(source, sink, 1, 1)
    store.put_bytes("segments", state + encode_changes([(b"k0", 99)]))
    fresh = Process(store)
    try:
        segments = (("segments", 0, len(state)), ("segments", len(state), len(encode_changes([(b"k0", 99)]))))
        positions = {0: len(DATA)}
        source.assign("0.0", 2, epoch=1, in_place=True, positions=positions, counts=(100, 7), done=True)
        fresh.assign("1.0", 2, epoch=1, segments=segments, done=True, counts=(3, 0))
        start(source, fresh, 2, 1)
        source.tell(control.Trigger(2, 3, 1))
        again = snapshot(source)[0]
        assert (again.epoch, again.records, again.bytes, again.done) == (3, 100, 7, True)
        said, changes, output = snapshot(fresh)
        assert (said.records, said.done, changes, output) == (3, True, b"", b"")
        core = fresh.loop._core
        assert core is not None
        (counts,) = [operator.state for operator in core._stateful]
        assert counts is not None
        assert dict(counts.items()) == {b"k0": 99, b"k1": 33, b"k2": 33}
    finally:
        fresh.close()


def test_whoever_connects_and_stalls_delays_nobody(source: Process, sink: Process) -> None:
    """The task waits neither for the handshake nor for the hello of a connection."""
    sink.assign("1.0")
    with socket.create_connection(("127.0.0.1", sink.port)) as silent:
        begun = clock.monotonic()
        for generation in range(2, 6):
            assert isinstance(sink.assign("1.0", generation), control.Prepared)
        assert clock.monotonic() - begun < module.AGENT_TIMEOUT_S / 10
        silent.settimeout(5.0)
        wait_until(lambda: silent.recv(1) == b"", 5, "a connection of an older generation is closed")


def test_a_segment_that_cannot_be_read_is_an_error_of_the_task(store: MemoryStore, sink: Process) -> None:
    """The process survives and can be assigned again."""
    store.put_bytes("segments", b"\xc1 is no msgpack")
    failed = sink.assign("1.0", segments=(("segments", 0, 8),))
    assert isinstance(failed, control.Failed)
    assert (failed.error.code, failed.generation) == ("CORRUPT", 1)
    assert isinstance(sink.assign("1.0", 2), control.Prepared)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"spec": {"stages": []}}, "JOB_INVALID"),
        ({"identity": b"no certificate"}, "PROTOCOL_ERROR"),
        ({"segments": (("absent", 0, 1),)}, "NOT_FOUND"),
    ],
)
def test_an_assignment_that_cannot_be_carried_out_is_reported(
    sink: Process, changed: dict[str, Any], code: str
) -> None:
    """The report carries its generation."""
    failed = sink.assign("1.0", 7, **changed)
    assert isinstance(failed, control.Failed)
    assert (failed.error.code, failed.generation, failed.task) == (code, 7, "1.0")


def test_a_start_without_an_endpoint_is_an_error(source: Process) -> None:
    """A start of another generation, or before an assignment, is ignored."""
    source.tell(control.Start(1, {}, {}, 0))
    source.assign("0.0")
    source.tell(control.Start(2, {}, {}, 0))
    source.tell(control.Start(1, {}, {}, 0))
    failed = source.hear()
    assert isinstance(failed, control.Failed)
    assert "does not say where task 1.0 listens" in failed.error.message


def test_a_neighbour_that_cannot_be_reached_is_left_to_its_agent(source: Process) -> None:
    """The task waits for its reset."""
    source.assign("0.0")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    source.tell(control.Start(1, {"1.0": ("127.0.0.1", port)}, {0: False}, 0))
    assert isinstance(source.assign("0.0", 2), control.Prepared)


def test_a_new_assignment_frees_a_task_that_waits_for_room(
    store: MemoryStore, source: Process, sink: Process
) -> None:
    """Although its neighbour does not read, the task still listens to its agent."""
    big = b"k,v\n" + b"".join(b"key-%d,%s\n" % (number, b"x" * 200) for number in range(40_000))
    store.put_bytes("big", big)
    spec = job_file(
        {"operator": "identity"}, {"operator": "identity", "tasks": 2}, format="csv", file="big", header=True
    )
    header = SourceHeader(("k", "v"), 4, len(big), ((0, 4, len(big), 0),), 1_000_000, "file-2")
    source.assign("0.0", spec=spec, header=header, survey=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[Any] = []

        def shake_hands() -> None:
            for _ in range(2):
                plain, _ = listener.accept()
                accepted.append(JobIdentity(PEM).server.wrap_socket(plain, server_side=True))

        thread = threading.Thread(target=shake_hands, daemon=True)
        thread.start()
        here = ("127.0.0.1", listener.getsockname()[1])
        source.tell(control.Start(1, {"1.0": here, "1.1": here}, {0: False}, 0))
        thread.join(10.0)
        assert isinstance(source.assign("0.0", 2, spec=spec, header=header, survey=False), control.Prepared)
        for sock in accepted:
            sock.close()


def test_a_frame_that_is_no_message_ends_the_generation(
    source: Process, sink: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported with its code; the process survives."""
    source.assign("0.0")
    sink.assign("1.0")
    monkeypatch.setattr(module, "encode_batch", lambda batch: memoryview(b"no batch"))
    start(source, sink)
    failed = sink.hear()
    assert isinstance(failed, control.Failed)
    assert failed.error.code == "PROTOCOL_ERROR"
    assert isinstance(sink.assign("1.0", 2), control.Prepared)


def test_a_command_that_is_no_message_ends_the_process(store: MemoryStore) -> None:
    """Its agent is trusted, so this is a defect: the process has no purpose without it."""
    process = Process(store)
    process.agent.send({"type": "nothing"}, b"", Deadline(clock.monotonic(), 5.0))
    wait_until(lambda: not process._thread.is_alive(), 5, "the process ends")
    process.close()


@pytest.mark.parametrize("hello", [Hello("0.0", 1), Hello("0.0", 3), Hello("0.1", 2)], ids=str)
def test_whoever_is_no_input_of_this_generation_is_not_listened_to(sink: Process, hello: Hello) -> None:
    """It may be a task of a run that was rolled back, with the certificate of this one."""
    sink.assign("1.0", 2)
    sender = connect("127.0.0.1", "127.0.0.1", sink.port, "1.0", hello, JobIdentity(PEM))
    try:
        wait_until(lambda: _is_closed(sender), 5, "the task closes the channel")
    finally:
        sender.close()


def _is_closed(sender: Channel) -> bool:
    try:
        return sender.read() is not None
    except ConnectionLost:
        return True
