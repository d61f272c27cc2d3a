"""The messages between an agent and its task launcher: only valid packets are decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.rainstorm.messages.launcher import (
    MEMORY_BYTES_MAX,
    NUMBER_MAX,
    PACKET_BYTES_MAX,
    KillTask,
    SpawnTask,
    TaskEnded,
    decode_ended,
    decode_request,
    encode,
)

SPAWN = SpawnTask(1, "127.0.0.1", "/run/rainstorm/task/hydfs.sock", 1 << 30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMES = st.sampled_from(["spawn", "kill", "ended", "host", "hydfs", "memory", "cause", "other"])


def test_a_message_is_decoded_as_it_was_encoded() -> None:
    """This holds in both directions."""
    for request in (SPAWN, KillTask(7), SpawnTask(NUMBER_MAX, "", "", MEMORY_BYTES_MAX)):
        assert decode_request(encode(request)) == request
    assert decode_ended(encode(TaskEnded(3, "killed by signal 9"))) == TaskEnded(3, "killed by signal 9")


def test_fields_of_another_release_are_ignored() -> None:
    """An agent may be newer than its launcher."""
    fields = {**json.loads(encode(SPAWN)), "cores": 2}
    assert decode_request(json.dumps(fields).encode()) == SPAWN


@pytest.mark.parametrize("wrong", [None, True, -1, 1.0, float("inf"), NUMBER_MAX + 1, "1", [1], {}])
def test_a_number_is_a_whole_one_in_its_range(wrong: Any) -> None:
    """Python would take True for 1, and JSON has infinities."""
    for name, decode in (("kill", decode_request), ("spawn", decode_request), ("ended", decode_ended)):
        fields = {"host": "h", "hydfs": "s", "memory": 1, "cause": "c", name: wrong}
        with pytest.raises(ValueError, match=f"'{name}' is not a number"):
            decode(json.dumps(fields).encode())


@pytest.mark.parametrize("wrong", [None, 1, "a\0b", "\ud800", "line\n", ["h"]])
def test_a_text_is_printable(wrong: Any) -> None:
    """A null byte cannot be an argument of a process, and half of a surrogate pair cannot be encoded."""
    with pytest.raises(ValueError, match="'host' is not a printable text"):
        decode_request(json.dumps({"spawn": 1, "host": wrong, "hydfs": "s", "memory": 1}).encode())
    with pytest.raises(ValueError, match="'cause' is not a printable text"):
        decode_ended(json.dumps({"ended": 1, "cause": wrong}).encode())


@given(st.binary() | st.dictionaries(NAMES, VALUES).map(lambda fields: json.dumps(fields).encode()))
@example(b"[" * PACKET_BYTES_MAX)
@example(b"9" * PACKET_BYTES_MAX)
@example(b'{"ended": Infinity, "cause": ""}')
def test_a_hostile_packet_is_a_value_error_or_a_message(packet: bytes) -> None:
    """The decoders raise nothing else, and a decoded message can be sent again."""
    for decode in (decode_request, decode_ended):
        try:
            message = decode(packet)
        except ValueError:
            continue
        assert decode(encode(message)) == message
