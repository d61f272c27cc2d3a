"""The store's source of the view, and the state of stores according to gossip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from agent.common.errors import InvalidMessage, NotFound, Unreachable
from agent.hydfs.shell.view import MembershipView, all_up
from agent.wire.client import Client


@pytest.fixture
def view() -> Iterator[MembershipView]:
    client = Client(None)
    made = MembershipView(client, "/nowhere", ["n1", "n2", "n3"])
    yield made
    made.stop()
    client.close()


@dataclass(frozen=True, slots=True)
class Gossip:
    """A membership agent's report about one node, with the fields that the store reads."""

    name: str
    state: str = "alive"
    services: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A membership agent's report about all nodes."""

    members: tuple[Gossip, ...]


def test_at_first_every_configured_node_is_up(view: MembershipView) -> None:
    assert view.current() == all_up(["n1", "n2", "n3"])
    assert view.current().up_names() == ["n1", "n2", "n3"]
    assert view.reach(0, 0.0)


def test_a_store_is_down_when_its_own_node_says_so(
    view: MembershipView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gossip about a dead node does not count: the view decides about nodes."""
    found = Answer(
        (
            Gossip("n1", services={"hydfs": "up", "logs": "down"}),
            Gossip("n2", services={"hydfs": "down"}),
            Gossip("n3", "dead", {"hydfs": "down"}),
            Gossip("n4"),
        )
    )
    monkeypatch.setattr(view._gossip, "members", lambda: found)
    assert view.storeless(["n1", "n2", "n3", "n4", "n5"]) == ["n2"]


def test_a_malformed_answer_says_nothing(view: MembershipView, monkeypatch: pytest.MonkeyPatch) -> None:
    def members() -> Answer:
        raise InvalidMessage("members: no list")

    monkeypatch.setattr(view._gossip, "members", members)
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
