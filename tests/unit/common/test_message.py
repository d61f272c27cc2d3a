"""Typed messages: what passes, what is refused, and how neighbouring releases understand each other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgpack
import pytest
from msgspec import Meta

from agent.common.errors import InvalidMessage
from agent.common.message import (
    COUNTER_MAX,
    Counter,
    Crc,
    Done,
    Duration,
    Message,
    Name,
    Number,
    Request,
    Vocabulary,
    decode,
    encode,
)
from tests.support import REPOSITORY


@dataclass(frozen=True, slots=True)
class Record:
    """A message within a message."""

    offset: Counter
    crc: Crc
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Ask(Request[Done]):
    """A request with a field of each kind."""

    kind: ClassVar[str] = "test.ask"
    reply: ClassVar[type[Any]] = Done
    name: Name
    number: Counter | None
    record: Record
    avoid: Annotated[tuple[Name, ...], Meta(max_length=2)] = ()
    marks: dict[Name, tuple[Counter, Counter]] = field(default_factory=dict)
    wait_s: Duration = 1.0
    load: Number = 0.0


GOOD: dict[str, Any] = {"name": "f", "number": 3, "record": {"offset": 1, "crc": 2, "data": b"x"}}


def test_a_message_survives_the_wire() -> None:
    """What is encoded, packed, unpacked and decoded is the same message."""
    sent = Ask("f", None, Record(1, 2, b"\x00\xff"), ("a",), {"w": (1, 2)}, 0.5, -1.5)
    packed = msgpack.unpackb(msgpack.packb(encode(sent)), raw=False)
    assert decode(Ask, packed) == sent


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    """A field that this release does not know does no harm, at any depth."""
    newer = {**GOOD, "later": [1], "record": {**GOOD["record"], "later": {}}}
    assert decode(Ask, newer) == decode(Ask, GOOD)


def test_missing_fields_of_an_older_peer_have_defaults() -> None:
    """A field with a default may be missing; one without may not."""
    assert decode(Ask, GOOD).wait_s == 1.0
    with pytest.raises(InvalidMessage, match="name"):
        decode(Ask, {key: value for key, value in GOOD.items() if key != "name"})


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": b"x"},
        {"name": None},
        {"number": True},
        {"number": 1.0},
        {"number": -1},
        {"number": COUNTER_MAX + 1},
        {"number": "1"},
        {"record": []},
        {"record": {"offset": 1, "crc": 1 << 32}},
        {"record": None},
        {"record": {"offset": 1, "crc": 1, "data": "eA=="}},
        {"avoid": ["a", "b", "c"]},
        {"avoid": "ab"},
        {"marks": {"w": [1]}},
        {"marks": {1: [1, 1]}},
        {"wait_s": float("nan")},
        {"wait_s": float("inf")},
        {"wait_s": -0.1},
        {"load": float("nan")},
        {"load": 1e301},
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(bad: dict[str, Any]) -> None:
    """The error names the message and the field."""
    (wrong,) = bad
    with pytest.raises(InvalidMessage, match=rf"test\.ask.*{wrong}"):
        decode(Ask, {**GOOD, **bad}, Ask.kind)


@pytest.mark.parametrize("fields", [None, 1, "x", [], b"x", [["name", "f"]]])
def test_what_is_no_map_is_refused(fields: Any) -> None:
    """A message is a map and nothing else."""
    with pytest.raises(InvalidMessage):
        decode(Ask, fields)


def test_deep_nesting_is_refused() -> None:
    """A value that is nested too deeply ends in the same error."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidMessage):
        decode(Ask, {**GOOD, "record": deep})


FIRST_USE = """
import sys, threading
from dataclasses import make_dataclass
from agent.common.message import decode

sys.setswitchinterval(1e-6)
for _ in range(20):
    inner = make_dataclass("Inner", [("a", int), ("b", str)], frozen=True, slots=True)
    names = [f"f{number}" for number in range(20)]
    outer = make_dataclass("Outer", [(name, inner | None) for name in names], frozen=True, slots=True)
    fields = dict.fromkeys(names, {"a": 1, "b": "x"})
    together = threading.Barrier(4)

    def use():
        together.wait()
        decode(outer, fields)
        decode(inner, fields[names[0]])

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_use_a_class_for_the_first_time_at_once() -> None:
    """Without our lock, msgspec crashes (SIGSEGV) when one thread uses a class that another is compiling."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@dataclass(frozen=True, slots=True)
class Start(Message):
    """One of two messages of a direction."""

    kind: ClassVar[str] = "start"
    task: Name


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """The other message."""

    kind: ClassVar[str] = "stop"


WORDS = Vocabulary("host to task", Start, Stop)


def test_a_vocabulary_tells_messages_apart() -> None:
    """The field ``type`` says which message it is."""
    for message in (Start("t"), Stop()):
        assert WORDS.decode(WORDS.encode(message)) == message


@pytest.mark.parametrize("fields", [{}, {"type": "other"}, {"type": ["start"]}, {"type": "start"}, [], None])
def test_a_vocabulary_refuses_what_it_does_not_know(fields: Any) -> None:
    """An unknown or unhashable kind is an error with a name, not a KeyError."""
    with pytest.raises(InvalidMessage, match="host to task"):
        WORDS.decode(fields)
