"""Scenarios of membership, as texts: elections of a leader, evictions, suspicions, proposals of a view."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.common.errors import NoMajority
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.node import MembershipCore
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import Member, State
from agent.membership.view import View
from tests.scenarios import Command, play

FOLDER = Path(__file__).parent / "scenarios"
NAMES = [f"n{index}" for index in range(1, 6)]
STATES: dict[str, State] = {state.label: state for state in State}


def described(view: View) -> str:
    """Returns a view in one line; nodes that are up are shown with their boot."""
    up = " ".join(f"{name}:{view.nodes[name].boot}" for name in view.up_names())
    down = " ".join(sorted(name for name in view.nodes if not view.is_up(name)))
    leader = view.leader or "nobody"
    return f"view {view.version}: term {view.term} led by {leader}, up {up or '-'}, down {down or '-'}"


def member(name: str, state: State = State.ALIVE, boot: int = 1, incarnation: int = 0) -> Member:
    return Member(name, f"{int(name[1:]):032x}", boot, incarnation, state, f"10.0.0.{name[1:]}", 7100)


class Election:
    """The rules of the view alone: verdicts in, the next view out."""

    def __init__(self) -> None:
        self.view: View | None = None

    def carry_out(self, command: Command) -> Iterable[str]:
        """Applies the verdicts of one command, such as ``dead n1 n2:4 reporters=n3`` (n2 in its boot 4)."""
        boots = dict(word.split(":") for word in command.words if ":" in word)
        names = [word.split(":")[0] for word in command.words]
        verdicts = {name: member(name, STATES[command.name], int(boots.get(name, "1"))) for name in names}
        reporters = dict.fromkeys(names, command.list_of("reporters"))
        changed = views.propose(self.view, verdicts, reporters)
        if changed is None:
            return ["the view stays"]
        assert views.propose(changed, verdicts, reporters) is None, "twice is once"
        self.view = changed
        return [described(changed)]


class Node:
    """The core of n1 in a cluster of five, with a clock that the text moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        contacts = {name: events.Contact(f"10.0.0.{name[1:]}", 7100) for name in NAMES}
        self.core = MembershipCore(member("n1"), contacts, NAMES, MembershipConfig(), random.Random(1))
        self.view = views.propose(None, {name: member(name) for name in NAMES}, {})
        # Nodes that answer no ping; all others answer at once.
        self.silent: tuple[str, ...] = ()

    def carry_out(self, command: Command) -> Iterable[str]:
        """Carries out one command and returns the effects."""
        match command.name:
            case "start":
                return self.do(events.Started())
            case "learn":
                return self.do(events.ViewLearned(self.view))
            case "unreachable":
                return self.do(events.RegisterFailed(NoMajority("too few voters answer")))
            case "agree":  # the register takes what this node proposes
                reporters = self.core.monitor.roster.all_reporters()
                changed = views.propose(self.view, self.core._verdicts(), reporters)
                self.view = changed or self.view
                return self.do(events.ViewLearned(self.view))
            case "hear":
                return self.hear(command)
            case "silent":
                self.silent = command.words
                return [f"answers: {' '.join(name for name in NAMES[1:] if name not in self.silent)}"]
            case "refused":
                return self.do(events.ContactRefused(command.words[0]))
            case "advance":
                return self.advance(float(command.words[0]))
            case "state":
                found = sorted(self.core.members().values(), key=lambda each: each.name)
                return [" ".join(f"{each.name}={each.state.label}" for each in found)]
            case _:
                raise AssertionError(f"no command {command.name}")

    def hear(self, command: Command) -> list[str]:
        """``hear n2 suspect n4 by=n3``: a datagram of n2 with one update."""
        sender, state, name = command.words[:3]
        number = {key: int(command.options.get(key, "0")) for key in ("boot", "incarnation", "view")}
        said = member(name, STATES[state], number["boot"] or 1, number["incarnation"])
        update = Update(said, command.options.get("by", ""))
        datagram = Datagram(Kind.GOSSIP, updates=(update,), view_version=number["view"])
        boot = number["boot"] if sender == name else 0
        return self.do(events.DatagramReceived(sender, boot or 1, datagram))

    def advance(self, seconds: float) -> list[str]:
        """Lets time pass, and all timers fire on time."""
        end, found = self.now + seconds, list[str]()
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            found += self.do(Tick())
        self.now = end
        return found

    def do(self, event: events.Event | Tick) -> list[str]:
        found, pings = list[str](), list[events.SendDatagram]()
        for effect in self.core.handle(self.now, event):
            found += self.tell(effect)
            if isinstance(effect, events.SendDatagram) and effect.datagram.kind is Kind.PING:
                pings.append(effect)
        self.core.check_invariants()
        for ping in pings:
            if ping.target not in self.silent:
                answer = Datagram(Kind.ACK, ping.datagram.sequence)
                boot = self.core.members()[ping.target].boot
                found += self.do(events.DatagramReceived(ping.target, boot, answer))
        return found

    def tell(self, effect: events.Effect) -> list[str]:
        match effect:
            case events.SendDatagram(target=target, datagram=datagram):
                # Of the datagrams, those that tell a member that it is suspect or dead.
                said = {each.member.state.label for each in datagram.updates if each.member.name == target}
                told = ", ".join(sorted(said - {"alive"}))
                return [f"-> {target}: {datagram.kind.name}, you are {told}"] if told else []
            case events.AnnounceMember(member=found, accuser=accuser):
                return [f"{found.name} is {found.state.label}" + (f", by {accuser}" if accuser else "")]
            case events.AnnounceView(view=view):
                return [described(view)]
            case events.ReadView():
                return ["read the register"]
            case events.ChangeView():
                return ["propose a view"]
            case events.CompareTables():
                return []
            case other:
                return [type(other).__name__]


@pytest.mark.parametrize("name", ["leader_election", "eviction"])
def test_views(name: str) -> None:
    play(FOLDER / f"{name}.txt", Election().carry_out)


@pytest.mark.parametrize("name", ["suspicion", "proposing"])
def test_node(name: str) -> None:
    play(FOLDER / f"{name}.txt", Node().carry_out)
