"""Where the store learns the view from, and what gossip says of stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.common.errors import NotFound, Unreachable
from agent.hydfs.shell.view import MembershipView, all_up
from agent.wire.client import Client


@pytest.fixture
def view() -> Iterator[MembershipView]:
    client = Client(None)
    made = MembershipView(client, "/nowhere", ["n1", "n2", "n3"])
    yield made
    made.stop()
    client.close()


def member(name: str, store: str = "up", state: str = "alive") -> dict[str, Any]:
    return {"name": name, "state": state, "services": {"hydfs": store, "logs": "down"}, "later": 1}


def test_at_first_every_configured_node_is_up(view: MembershipView) -> None:
    assert view.current() == all_up(["n1", "n2", "n3"])
    assert view.current().up_names() == ["n1", "n2", "n3"]
    assert view.reach(0, 0.0)


def test_a_store_is_down_when_its_own_node_says_so(
    view: MembershipView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gossip says of a node that does not live counts for nothing: that is the view's business."""
    found = {"members": [member("n1"), member("n2", "down"), member("n3", "down", "dead")]}
    monkeypatch.setattr(view._gossip, "members", lambda: found)
    assert view.storeless(["n1", "n2", "n3", "n4"]) == ["n2"]
    found["members"].append({"name": "n4", "state": "alive"})
    assert view.storeless(["n4"]) == []


@pytest.mark.parametrize("found", [{}, {"members": 5}, {"members": [{"name": 5}]}])
def test_a_malformed_answer_says_nothing(
    view: MembershipView, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    monkeypatch.setattr(view._gossip, "members", lambda: found)
    assert view.storeless(["n1"]) == []


def test_a_membership_agent_that_is_away_says_nothing(
    view: MembershipView, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert view.storeless(["n1"]) == []
    hints: list[str] = []

    def hint(node: str) -> None:
        hints.append(node)
        raise NotFound("no such node") if node == "n9" else Unreachable("away")

    monkeypatch.setattr(view._gossip, "hint", hint)
    view.hint("n9")
    view.hint("n1")
    assert hints == ["n9", "n1"]
