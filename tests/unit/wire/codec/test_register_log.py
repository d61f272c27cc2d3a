"""The records of a voter's log: every slot is read back, and every one begins as the search expects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.framedlog import records
from agent.common.register import Slot
from agent.wire.codec import register_log
from agent.wire.codec.framing import HEADER_BYTES_MAX

BALLOTS = st.tuples(st.integers(0, 1 << 40), st.text(max_size=40))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.text(max_size=70_000), BALLOTS, BALLOTS, VALUES)
def test_a_slot_is_read_back_as_it_was_written(
    key: str, promised: tuple[int, str], accepted: tuple[int, str], value: object
) -> None:
    slot = Slot(promised, accepted, value)
    data = register_log.LAYOUT.record(register_log.pack(key, slot))
    (found,) = records(register_log.LAYOUT, lambda at, length: data[at : at + length], len(data))
    assert register_log.unpack(found.body) == (key, slot)


def test_whatever_fits_into_a_message_fits_into_the_log() -> None:
    value = b"x" * HEADER_BYTES_MAX
    body = register_log.pack("k" * 1000, Slot((1, "p" * 1000), (1, "p" * 1000), value))
    register_log.LAYOUT.check(body)
