"""The register of the view: the voters' decisions, the voters' names, and the replacement of a voter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.errors import Conflict, NoMajority
from agent.membership.shell import viewregister
from agent.membership.shell.viewregister import ViewRegister
from agent.membership.view import View
from agent.wire.register.proposer import voter_targets
from tests.unit.membership.group import Group


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path, ["n1", "n2"], voters=2)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def register(group: Group) -> Iterator[ViewRegister]:
    targets = voter_targets(group.names, group.address)
    made = ViewRegister("operator", group.client, targets, ("n1", "n2"), group.address)
    try:
        yield made
    finally:
        made.close()


def test_a_change_is_what_all_read_afterwards(group: Group, register: ViewRegister) -> None:
    def next_term(view: View | None) -> View | None:
        assert view is not None
        return replace(view, version=view.version + 1, term=view.term + 1)

    before = register.read()
    assert before is not None
    assert before.up_names() == ["n1", "n2"]
    chosen = register.change(next_term)
    assert chosen == next_term(before)
    assert group.services["n2"].register.read() == chosen


def test_voters_are_those_configured_until_one_is_replaced(register: ViewRegister) -> None:
    assert register.voters() == {"n1", "n2"}
    with pytest.raises(Conflict):
        register.replace_voter("n1", "n2")
    finished = register.replace_voter("", "")
    assert not finished.voters_before, "nothing was begun"


def test_without_a_majority_nothing_is_decided(
    group: Group, register: ViewRegister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewregister, "TIMEOUT_S", 0.2)
    group.stop("n2")
    with pytest.raises(NoMajority):
        register.read()
    with pytest.raises(NoMajority):
        register.change(lambda view: view)
