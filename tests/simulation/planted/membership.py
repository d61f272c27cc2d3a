"""Rules of membership and the view, each broken on purpose: the checks must find every one.

A bug replaces attributes of the real classes and modules while the seeds run. It names the rule that it
breaks and the schedules that must find it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.beliefs import gossip, suspicion
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.beliefs.suspicion import Suspicion
from agent.membership.core.beliefs.table import Table
from agent.membership.core.detectors.reconnect import Reconnector
from agent.membership.core.dissemination.comparison import Comparisons
from agent.membership.core.monitor import Monitor
from agent.membership.datagrams import Update
from agent.membership.member import Member, State
from agent.membership.service import Service
from agent.membership.view import DOWN, UP, NodeEntry, View
from tests.simulation.membership.run import run, schedule_of
from tests.simulation.planted.bug import PlantedBug, Subject

MEMBERSHIP = Subject("membership", lambda seed, kinds: run(schedule_of(seed, kinds)))

# The detector and its beliefs


def _refute_in_place(self: Roster, now: float, member: Member, accuser: str) -> None:
    if member.precedence > self.me.precedence and not self.leaving:
        self.announce_me()


def _believe_death_at_once(self: Roster, now: float, member: Member, current: Member, accuser: str) -> None:
    self.put(now, member, accuser)


def _nothing(*_: Any, **__: Any) -> None:
    """Does not do what it should."""


def _no_names(self: Reconnector) -> list[str]:
    return []


def _no_gossip(self: gossip.GossipQueue, members: int, room_bytes: int = 0) -> tuple[Update, ...]:
    return ()


def _at_once(self: Suspicion) -> float:
    return self.started_at


def _never_shrinks(shortest: float, longest: float, wanted: int, confirmations: int) -> float:
    return longest * 2


def _state_first(self: Member) -> tuple[int, int, int]:
    return (self.boot, int(self.state), self.incarnation)


def _alive_wins(self: Member) -> tuple[int, int, int]:
    return (self.boot, self.incarnation, -int(self.state))


def _no_boots(self: Member) -> tuple[int, int, int]:
    return (0, self.incarnation, int(self.state))


def _believe_any_life(self: Table, member: Member) -> bool:
    current = self.get(member.name)
    return current is None or member != current


def _keep_old_boot(self: Service, effect: events.Effect) -> None:
    if not isinstance(effect, events.AdoptBoot):
        _execute(self, effect)


_execute = Service._execute

# The view


def _keep_term(view: View, base: View) -> View:
    return replace(_with_leader(view, base), term=max(1, base.term))


_with_leader = views._with_leader


def _leader_stays(view: View, base: View) -> View:
    return view if base.leader else _with_leader(view, base)


def _decide_alone(self: Service, job: events.ReadView | events.ChangeView) -> events.Event:
    if isinstance(job, events.ReadView):
        return _use_register(self, job)
    view = self.core.proposer.view
    return events.ViewLearned(views.propose(view, job.members, job.reporters) or view)


_use_register = Service._use_register


def _evict_suspects(entry: NodeEntry | None, member: Member) -> NodeEntry | None:
    if entry is not None and entry.state == UP and member.state is State.SUSPECT:
        return NodeEntry(DOWN, entry.node_id)
    return _verdict(entry, member)


def _never_readmit(entry: NodeEntry | None, member: Member) -> NodeEntry | None:
    if entry is not None and entry.state == DOWN:
        return None
    return _verdict(entry, member)


_verdict = views._verdict


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "refutes without raising its incarnation",
        "a suspect refutes with a higher incarnation",
        MEMBERSHIP,
        ((Roster, "_merge_about_me", _refute_in_place),),
    ),
    PlantedBug(
        "a suspicion beats a newer incarnation",
        "the incarnation counts before the state",
        MEMBERSHIP,
        ((Member, "precedence", property(_state_first)),),
    ),
    PlantedBug(
        "alive beats dead of the same incarnation",
        "alive < suspect < dead",
        MEMBERSHIP,
        ((Member, "precedence", property(_alive_wins)),),
    ),
    PlantedBug(
        "the boot is ignored",
        "a later life beats every earlier one",
        MEMBERSHIP,
        ((Member, "precedence", property(_no_boots)),),
    ),
    PlantedBug(
        "any other record is taken over",
        "tables keep the record of higher precedence",
        MEMBERSHIP,
        ((Table, "supersedes", _believe_any_life),),
    ),
    PlantedBug(
        "dead by hearsay at once",
        "a reported death needs the node's own suspicion",
        MEMBERSHIP,
        ((Roster, "_merge_death", _believe_death_at_once),),
        ("isolate", "clog_node"),
    ),
    PlantedBug(
        "no lateness guard",
        "a node that was suspended postpones its verdicts",
        MEMBERSHIP,
        ((Monitor, "_extend_deadlines", _nothing),),
        ("refuse", "pause_suspecting", "starve"),
    ),
    PlantedBug(
        "suspicion never expires",
        "a suspect that does not refute is dead",
        MEMBERSHIP,
        ((Roster, "expire", _nothing), (Suspicion, "deadline", property(lambda self: 1e12))),
    ),
    PlantedBug(
        "suspicion expires at once",
        "a suspect has time to refute",
        MEMBERSHIP,
        ((Suspicion, "deadline", property(_at_once)),),
    ),
    PlantedBug(
        "suspicion does not shrink",
        "confirmations shorten a suspicion",
        MEMBERSHIP,
        ((suspicion, "timeout_s", _never_shrinks),),
    ),
    PlantedBug(
        "nothing is gossiped",
        "an update rides on 4 log N datagrams",
        MEMBERSHIP,
        ((gossip.GossipQueue, "take", _no_gossip),),
    ),
    PlantedBug(
        "tables are never compared",
        "different digests lead to an exchange",
        MEMBERSHIP,
        ((Comparisons, "_compare", _nothing),),
        ("deafen", "isolate"),
    ),
    PlantedBug(
        "the dead are never asked again",
        "partitions heal by themselves",
        MEMBERSHIP,
        ((Reconnector, "_names", _no_names),),
        ("partition", "isolate"),
    ),
    PlantedBug(
        "a later boot is adopted in words only",
        "a node sends under the boot that it adopted",
        MEMBERSHIP,
        ((Service, "_execute", _keep_old_boot),),
    ),
    PlantedBug(
        "a new leader without a new term",
        "one leader for each term",
        MEMBERSHIP,
        ((views, "_with_leader", _keep_term),),
    ),
    PlantedBug(
        "a dead leader stays",
        "the leader is up",
        MEMBERSHIP,
        ((views, "_with_leader", _leader_stays),),
    ),
    PlantedBug(
        "eviction without a majority",
        "the voters decide",
        MEMBERSHIP,
        ((Service, "_use_register", _decide_alone),),
    ),
    PlantedBug(
        "suspects are evicted",
        "only the dead are evicted",
        MEMBERSHIP,
        ((views, "_verdict", _evict_suspects),),
    ),
    PlantedBug(
        "who is down stays down",
        "a node that returns is admitted",
        MEMBERSHIP,
        ((views, "_verdict", _never_readmit),),
    ),
)
# One quickly found bug of each kind: these are part of every `make test`.
QUICK = (
    "refutes without raising its incarnation",
    "a new leader without a new term",
)
