"""The gossip queue: how often, how much and in which order updates are sent."""

from __future__ import annotations

import pytest

from agent.common.errors import FrameTooLarge
from agent.membership.core.beliefs.gossip import GossipQueue, transmit_limit
from agent.membership.datagrams import DATAGRAM_BYTES_MAX, Datagram, Kind, Update, encode
from agent.membership.member import Member, State


def update(name: str, incarnation: int = 0, state: State = State.ALIVE, accuser: str = "") -> Update:
    return Update(Member(name, "ab" * 16, 1, incarnation, state, "10.0.0.1", 7100), accuser)


@pytest.mark.parametrize(
    ("members", "limit"), [(1, 4), (5, 4), (9, 4), (10, 8), (99, 8), (100, 12), (9_999, 16)]
)
def test_transmit_limit(members: int, limit: int) -> None:
    assert transmit_limit(members) == limit


def test_update_is_sent_a_limited_number_of_times() -> None:
    queue = GossipQueue()
    queue.add(update("n1"))
    sent = [queue.take(5) for _ in range(10)]
    assert sent == [(update("n1"),)] * 4 + [()] * 6
    assert len(queue) == 0


def test_newer_record_replaces_older_ones_but_accusations_are_kept_apart() -> None:
    queue = GossipQueue()
    queue.add(update("n1"))
    queue.add(update("n1", 0, State.SUSPECT, "n2"))
    queue.add(update("n1", 0, State.SUSPECT, "n3"))
    assert {entry.accuser for entry in queue.take(5)} == {"n2", "n3"}
    queue.add(update("n1", 1))
    assert queue.take(5) == (update("n1", 1),)


def test_a_datagram_full_of_gossip_stays_within_its_size() -> None:
    queue = GossipQueue()
    for index in range(100):
        queue.add(update(f"node-with-a-rather-long-name-{index:030d}"))
    seen = []
    for _ in range(20):
        taken = queue.take(100)
        assert (
            len(encode(Datagram(Kind.PING, 1 << 40, "n" * 63, 1 << 40, 1 << 31, taken))) <= DATAGRAM_BYTES_MAX
        )
        seen += [entry.member.name for entry in taken]
    assert len(set(seen)) == 100, "the least-sent go first, so that each has its turn"


def test_a_record_that_fits_into_no_datagram_is_an_error_and_not_silence() -> None:
    with pytest.raises(FrameTooLarge, match="has room for"):
        GossipQueue().add(update("n" * 2000))
