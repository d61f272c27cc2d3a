"""Keyed state with epochs against the simplest model: a full copy at the end of every epoch."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.rainstorm.task.operators.aggregate import text_of
from agent.rainstorm.task.state.keyed import KeyedState, decode_changes, encode_changes
from tests.properties import examples

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b""])


class StateMachine(RuleBasedStateMachine):
    """Drives a ``KeyedState`` as a task does: epochs count upwards, and a rollback goes to a committed epoch
    or to one that may still be committed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = KeyedState()
        self.model: dict[bytes, int] = {}
        self.copies: dict[int, dict[bytes, int]] = {0: {}}
        self.epoch = 0
        self.committed = 0
        self.durable: dict[bytes, int] = {}

    @rule(key=KEYS, value=st.integers(0, 3))
    def change(self, key: bytes, value: int) -> None:
        self.state.set(key, value)
        self.model[key] = value

    @rule(skip=st.integers(1, 3))
    def close_epoch(self, skip: int) -> None:
        before = self.copies[max(self.copies)]
        self.epoch += skip
        delta = self.state.close_epoch(self.epoch)
        assert len(dict(delta)) == len(delta)
        assert {**before, **dict(delta)} == self.model
        self.copies[self.epoch] = dict(self.model)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.committed = data.draw(st.sampled_from(sorted(self.copies)))
        self.state.commit(self.committed)
        self.copies = {epoch: copy for epoch, copy in self.copies.items() if epoch >= self.committed}

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        # The task may not know of the commit yet: then it only knows that the epoch is closed.
        self.committed = data.draw(st.sampled_from(sorted(self.copies)))
        self.state.roll_back(self.committed)
        self.model = dict(self.copies[self.committed])
        self.copies = {self.committed: dict(self.model)}

    @rule()
    def roll_back_twice(self) -> None:
        self.state.roll_back(self.committed)
        self.state.roll_back(self.committed)
        self.model = dict(self.copies[self.committed])
        self.copies = {self.committed: dict(self.model)}

    @invariant()
    def values_are_those_of_the_model(self) -> None:
        assert dict(self.state.items()) == self.model
        assert len(self.state) == len(self.model)
        assert all(self.state.get(key) == self.model.get(key) for key in (b"a", b"b", b"c", b"d", b""))

    @invariant()
    def the_open_epoch_knows_what_it_changed(self) -> None:
        last = self.copies[max(self.copies)]
        changed = dict(self.state.changed())
        assert {**last, **changed} == self.model
        assert changed.keys() >= {key for key in self.model if self.model[key] != last.get(key)}


TestKeyedState = StateMachine.TestCase
TestKeyedState.settings = settings(max_examples=examples(40), stateful_step_count=25)


def test_a_key_that_is_new_is_gone_after_a_rollback() -> None:
    """Undoing the first change of a key removes it, so ``final`` writes no key that was never counted."""
    state = KeyedState()
    state.set(b"old", 1)
    state.close_epoch(1)
    state.set(b"new", 1)
    state.set(b"old", 2)
    state.close_epoch(2)
    state.roll_back(1)
    assert list(state.items()) == [(b"old", 1)]


def test_a_key_that_changed_twice_has_its_value_of_before_the_first_change_again() -> None:
    """The second change in an epoch must not replace the old value that the first one kept."""
    state = KeyedState()
    state.set(b"k", 1)
    state.close_epoch(1)
    state.set(b"k", 2)
    state.set(b"k", 3)
    state.close_epoch(2)
    state.roll_back(1)
    assert state.get(b"k") == 1


def test_epochs_are_undone_from_the_newest_to_the_oldest() -> None:
    """Each of them changed the same key, and the value of the committed epoch comes back."""
    state = KeyedState()
    for epoch in range(1, 5):
        state.set(b"k", 10 * epoch)
        state.close_epoch(epoch)
    state.set(b"k", 50)
    state.commit(1)
    state.roll_back(1)
    assert state.get(b"k") == 10


def test_segments_are_loaded_oldest_first() -> None:
    """A later segment's value of a key replaces an earlier one's; loaded values are committed ones."""
    state = KeyedState()
    state.load({b"a": 1, b"b": 1})
    state.load({b"a": 2})
    state.roll_back(7)
    assert dict(state.items()) == {b"a": 2, b"b": 1}
    assert list(state.changed()) == []


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), 2**64, -(2**64), 10**40]),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**50), max_value=10**50),
)


@pytest.mark.slow
@given(st.dictionaries(st.binary(max_size=6), NUMBERS, max_size=6))
def test_changes_survive_the_segment(changes: dict[bytes, Any]) -> None:
    """Keys and numbers come back exactly: integers of any size, decimals with all their digits."""
    found = decode_changes(encode_changes(list(changes.items())))
    assert list(found.items()) == list(changes.items())
    for key, value in found.items():
        assert text_of(value) == text_of(changes[key])
        assert isinstance(value, int | Decimal)
