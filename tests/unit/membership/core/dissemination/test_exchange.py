"""The records that two nodes swap when their tables differ."""

from __future__ import annotations

import random
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import ProtocolError
from agent.membership.core import events
from agent.membership.core.dissemination.exchange import (
    RECORDS_MAX,
    differing,
    digests,
    pack,
    records,
    unpack,
)
from agent.membership.datagrams import Update
from agent.membership.member import Member, State
from tests.unit.membership.core.detectors.test_swim import Bench, member


def many(count: int) -> list[Member]:
    return [Member(f"n{i}", f"{i + 1:032x}", 1, 0, State.ALIVE, "10.0.0.1", 7100) for i in range(count)]


def test_only_the_parts_that_differ_are_swapped_and_then_both_have_the_greater_records() -> None:
    one, two, rng = Bench(), Bench(), random.Random(1)
    for bench in (one, two):
        for entry in many(500)[6:]:
            roster = bench.monitor.roster
            roster.put(0.0, entry if rng.random() > 0.01 else replace(entry, incarnation=3))
    mine, theirs = one.monitor.roster, two.monitor.roster
    parts = differing(digests(mine.table), digests(theirs.table))
    there, back = records(mine, parts, "n2"), records(theirs, parts, "n2")
    assert 0 < len(there) < 150
    two.do(events.TableReceived("n1", unpack(pack(there))))
    one.do(events.TableReceived("n2", unpack(pack(back))))
    assert one.monitor.table.digest == two.monitor.table.digest
    assert differing(digests(mine.table), digests(theirs.table)) == []


def test_accusations_of_the_receiver_are_left_out() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.SUSPECT), "n2")
    told = [update.member.name for update in records(bench.monitor.roster, range(64), "n3")]
    assert sorted(told) == ["n1", "n2", "n4", "n5"]
    told_others = records(bench.monitor.roster, range(64), "n4")
    assert Update(member("n3", State.SUSPECT), "n2") in told_others


def test_more_records_than_the_bound_wait_for_the_next_time() -> None:
    bench = Bench(known=["n1"])
    for entry in many(RECORDS_MAX + 50)[1:]:
        bench.monitor.table.put(entry)
    found = records(bench.monitor.roster, range(64), "n2")
    assert len(found) == RECORDS_MAX
    with pytest.raises(ProtocolError, match="form of this release"):
        unpack(msgpack.packb([None] * (RECORDS_MAX + 1)))


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_by_name(data: bytes) -> None:
    try:
        found = unpack(data)
    except ProtocolError:
        return
    assert (data, found) == (b"\x90", ())
