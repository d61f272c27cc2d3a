"""The joined core: when it reads the register, when it changes it, and when it knows that it must not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.common.errors import NoMajority
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.node import REFRESH_S, MembershipCore
from agent.membership.core.proposer import SETTLE_S
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import Member, State
from agent.membership.view import View

NAMES = ["n1", "n2", "n3", "n4", "n5"]
FAILED = events.RegisterFailed(NoMajority("too few"))


def member(name: str, state: State = State.ALIVE, boot: int = 1) -> Member:
    return Member(name, f"{NAMES.index(name) + 1:032x}", boot, 0, state, f"10.0.0.{name[1:]}", 7100)


VIEW = views.propose(None, {name: member(name) for name in NAMES}, {})


class Bench:
    """The core of n1 in a cluster of five voters that has a view."""

    def __init__(self) -> None:
        self.now = 1000.0
        contacts = {name: events.Contact(f"10.0.0.{name[1:]}", 7100) for name in NAMES}
        self.core = MembershipCore(member("n1"), contacts, NAMES, MembershipConfig(), random.Random(1))

    def do(self, event: Any) -> list[events.Effect]:
        effects = self.core.handle(self.now, event)
        self.core.check_invariants()
        return effects

    def hear(self, sender: str, updates: Sequence[Update] = (), view_version: int = 1) -> list[events.Effect]:
        datagram = Datagram(Kind.GOSSIP, view_version=view_version, updates=tuple(updates))
        return self.do(events.DatagramReceived(sender, 1, datagram))

    def form(self) -> None:
        assert register(self.do(events.Started())) == [events.ReadView()]
        self.do(events.ViewLearned(VIEW))

    def run(self, duration_s: float) -> list[events.Effect]:
        end, found = self.now + duration_s, list[events.Effect]()
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            found += self.do(Tick())
            if register(found):
                return found
        self.now = end
        return found


def register(effects: Sequence[events.Effect]) -> list[events.Effect]:
    return [effect for effect in effects if isinstance(effect, events.ReadView | events.ChangeView)]


def test_nodes_of_the_view_are_members_until_they_are_found_missing() -> None:
    bench = Bench()
    bench.form()
    assert sorted(bench.core.members()) == NAMES
    assert bench.core.majority


def test_a_newer_view_that_is_heard_of_is_read_and_only_once_at_a_time() -> None:
    bench = Bench()
    bench.form()
    assert register(bench.hear("n2", view_version=9)) == [events.ReadView()]
    assert register(bench.hear("n3", view_version=10)) == []
    announced = [e for e in bench.do(events.ViewLearned(VIEW)) if isinstance(e, events.AnnounceView)]
    assert announced == [], "an old view wakes no one"


def test_the_register_is_read_again_without_a_reason() -> None:
    bench = Bench()
    bench.form()
    assert register(bench.run(1.3 * REFRESH_S)) == [events.ReadView()]


def test_when_the_voters_are_believed_dead_there_is_no_majority_and_nothing_is_proposed() -> None:
    bench = Bench()
    bench.form()
    bench.core.monitor.health.score = 0
    for name in ("n3", "n4", "n5"):
        bench.core.monitor.roster.put(bench.now, member(name, State.DEAD), "n1")
    bench.do(Tick())
    assert not bench.core.majority, "most voters are gone, although the register was not asked"
    effects = bench.run(30.0)
    assert not any(isinstance(effect, events.ChangeView) for effect in effects)


def test_after_a_failure_the_others_may_refute_before_anything_is_proposed() -> None:
    bench = Bench()
    bench.form()
    bench.core.monitor.roster.put(bench.now, member("n5", State.DEAD), "n2")
    bench.hear("n2", view_version=2)
    bench.do(FAILED)
    assert not bench.core.majority
    assert register(bench.run(5.0)) == [events.ReadView()], "nothing is proposed before a read works"
    regained_at = bench.now
    effects = bench.do(events.ViewLearned(VIEW))
    assert register(effects) == [], "a version that the register does not have is not requested in a loop"
    asked = [
        e.target for e in effects if isinstance(e, events.SendDatagram) and e.datagram.kind is Kind.HELLO
    ]
    assert asked == ["n5"], "members believed dead are contacted at once"
    found = register(bench.run(3.0))
    assert isinstance(found[0], events.ChangeView)
    assert bench.now >= regained_at + SETTLE_S


def proposed(bench: Bench, view: View | None, duration_s: float = 20.0) -> list[events.ChangeView]:
    """Runs the core, answering its reads with a view, and returns the changes that it proposes."""
    end, found = bench.now + duration_s, list[events.ChangeView]()
    while bench.now < end and not found:
        effects = register(bench.run(end - bench.now))
        found += [effect for effect in effects if isinstance(effect, events.ChangeView)]
        bench.do(events.ViewLearned(view))
    return found


@pytest.mark.parametrize(("dead", "proposes"), [("n4 n5", True), ("n3 n4 n5", False)])
def test_only_a_node_that_sees_a_majority_of_the_voters_proposes(dead: str, proposes: bool) -> None:
    """A node in a minority may read the register and have witnesses, but it is itself cut off."""
    bench = Bench()
    bench.form()
    for name in dead.split():
        bench.core.monitor.roster.put(bench.now, member(name, State.DEAD), "n2")
        bench.core.monitor.roster.accuse(bench.now, name)
    bench.hear("n2")
    assert bool(proposed(bench, VIEW, 3.0)) is proposes


def test_a_node_that_was_evicted_is_readmitted_by_others_only() -> None:
    """Otherwise a node that the others cannot hear would readmit itself again and again."""
    bench = Bench()
    bench.form()
    dead = {name: member(name, State.DEAD if name == "n1" else State.ALIVE) for name in NAMES}
    evicted = views.propose(VIEW, dead, {"n1": ["n2", "n3"]})
    assert evicted is not None
    assert not evicted.is_up("n1")
    bench.do(events.ViewLearned(evicted))
    assert proposed(bench, evicted) == []
