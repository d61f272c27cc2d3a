"""Barrier alignment: nothing of the next epoch is taken before all channels have ended this one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import ProtocolError
from agent.rainstorm.task.core.alignment import Alignment


def aligned(*, exactly_once: bool = True) -> Alignment:
    """Returns an alignment of channels a and b after epoch 5."""
    made = Alignment(("a", "b"), exactly_once=exactly_once)
    made.reset(5)
    return made


def test_a_channel_that_is_ahead_waits() -> None:
    """It waits from its own barrier until the last channel has delivered its barrier."""
    made = aligned()
    assert not made.blocked("a")
    assert made.barrier("a", 6) is None
    assert (made.blocked("a"), made.blocked("b")) == (True, False)
    assert made.barrier("b", 6) == 6
    assert (made.blocked("a"), made.blocked("b")) == (False, False)


@given(st.integers(1, 5), st.integers(0, 1 << 30))
def test_no_record_of_a_later_epoch_comes_in_early(channels: int, seed: int) -> None:
    """Whatever the order of arrival, an epoch has exactly the records before its barriers."""
    source = random.Random(seed)
    names = [f"0.{number}" for number in range(channels)]
    made = Alignment(names, exactly_once=True)
    made.reset(0)
    queues = {name: [] for name in names}  # type: dict[str, list[tuple[str, int]]]
    epochs = [2, 3, 7]
    for name in names:
        for epoch in epochs:
            queues[name] += [("record", epoch)] * source.randrange(3) + [("barrier", epoch)]
    reached = []
    taken: list[int] = []
    while any(queues.values()):
        open_now = [name for name in names if queues[name] and not made.blocked(name)]
        name = source.choice(open_now)
        kind, epoch = queues[name].pop(0)
        if kind == "record":
            taken.append(epoch)
            continue
        complete = made.barrier(name, epoch)
        if complete is not None:
            reached.append(complete)
            assert max(taken, default=0) <= complete
            assert ("record", complete) not in [entry for queue in queues.values() for entry in queue]
    assert reached == epochs


@pytest.mark.parametrize("epoch", [4, 5])
def test_a_barrier_of_the_past_is_refused(epoch: int) -> None:
    """A channel's barriers count upwards from the epoch that the task was reset to."""
    with pytest.raises(ProtocolError, match=f"barrier {epoch} on channel a"):
        aligned().barrier("a", epoch)


def test_a_repeated_barrier_is_refused() -> None:
    """The same barrier twice on a channel is a broken peer, not progress."""
    made = aligned()
    made.barrier("a", 7)
    for epoch in (6, 7):
        with pytest.raises(ProtocolError):
            made.barrier("a", epoch)


def test_the_input_has_ended_when_all_channels_have() -> None:
    """Once, however often a channel says so; ended channels still deliver barriers."""
    made = aligned()
    assert not made.end("a")
    assert not made.end("a")
    assert made.end("b")
    assert not made.end("b")
    assert made.barrier("a", 6) is None
    assert made.barrier("b", 6) == 6


def test_a_reset_forgets_the_generation_before() -> None:
    """Barriers and ends of the old channels mean nothing for the new ones."""
    made = aligned()
    made.barrier("a", 6)
    made.end("a")
    made.reset(5)
    assert not made.blocked("a")
    assert not made.end("b")
    assert made.end("a")
    assert made.barrier("b", 6) is None
    assert made.barrier("a", 6) == 6


def test_without_exactly_once_nothing_waits() -> None:
    """Barriers are only counted: a fast channel may be several epochs ahead."""
    made = aligned(exactly_once=False)
    assert made.barrier("a", 6) is None
    assert made.barrier("a", 7) is None
    assert not made.blocked("a")
    assert made.barrier("b", 6) == 6
    assert made.barrier("b", 7) == 7
