"""Membership played from texts: suspicion and refutation as one node sees them, and the election of a leader.

In ``suspicion`` and ``refutation`` the node n1 watches four others. The text says what n1 hears, which
members are silent, and how long n1 waits. It shows what n1 comes to believe, whom it pings for a reason (not
the member whose turn it is), and when it refutes. In ``election`` and ``voters`` the text changes the view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from agent.common.errors import RainStormError
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.datagrams import Kind, Update
from agent.membership.member import Member, State
from agent.membership.view import View
from tests.scenarios import Command, play
from tests.unit.membership.core.detectors.test_swim import NAMES, Bench, member

FOLDER = Path(__file__).parent / "scenarios"


class Watch:
    """The node n1 and what it believes; commands are methods."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.incarnation = self.bench.monitor.me.incarnation
        # Pings that are not answered yet: whom they went to, and their sequence numbers.
        self.pings: list[tuple[str, int]] = []

    def carry_out(self, command: Command) -> Iterable[str]:
        """Carries a command out and returns what came of it."""
        do: Callable[[Command], Iterable[str]] = getattr(self, f"do_{command.name}")
        return list(do(command))

    def do_hint(self, command: Command) -> Iterable[str]:
        """Tells n1 that another agent of its machine has lost contact with a member."""
        return self._told(self.bench.do(events.HintReceived(command.words[0])))

    def do_refused(self, command: Command) -> Iterable[str]:
        """Tells n1 that nobody listens on the port of a member."""
        return self._told(self.bench.do(events.ContactRefused(command.words[0])))

    def do_wait(self, command: Command) -> Iterable[str]:
        """Lets time pass; all members but the silent ones answer."""
        silent = command.list_of("silent")
        effects: list[events.Effect] = []
        for target, sequence in self.pings:
            if target not in silent:
                effects += self.bench.hear(target, Kind.ACK, sequence)
        self.pings = []
        return self._shown([*effects, *self.bench.run(float(command.options["seconds"]), silent=silent)])

    def do_gossip(self, command: Command) -> Iterable[str]:
        """Lets a member tell n1 of another one, or of n1 itself."""
        sender, about = command.words
        found = member(
            about, State[command.options["state"].upper()], int(command.options.get("incarnation", "0"))
        )
        update = Update(found, command.options.get("accuser", ""))
        return self._told(self.bench.hear(sender, Kind.GOSSIP, updates=[update]))

    def do_heard(self, command: Command) -> Iterable[str]:
        """Lets a member make a request of its own."""
        return self._told(self.bench.do(events.PeerHeard(command.words[0])))

    def do_members(self, command: Command) -> Iterable[str]:
        """Shows what n1 believes of a member, and who found it silent."""
        roster = self.bench.monitor.roster
        for name in command.words or NAMES:
            found = roster.table.get(name)
            assert found is not None
            reporters = ",".join(roster.reporters(name))
            line = f"{name}: {found.state.name.lower()}, incarnation {found.incarnation}"
            yield line + (f", found silent by {reporters}" if reporters else "")

    def _told(self, effects: Sequence[events.Effect]) -> list[str]:
        """Shows what came of news, with the pings that it caused."""
        pinged = []
        for effect in effects:
            if isinstance(effect, events.SendDatagram) and effect.datagram.kind is Kind.PING:
                self.pings.append((effect.target, effect.datagram.sequence))
                pinged.append(f"n1 -> {effect.target}: ping")
        return [*self._shown(effects), *pinged]

    def _shown(self, effects: Sequence[events.Effect]) -> list[str]:
        lines = []
        for effect in effects:
            match effect:
                case events.AnnounceMember(member=found, before=before, accuser=accuser):
                    was = before.state.name.lower() if before is not None else "unknown"
                    by = f", accused by {accuser}" if accuser else ""
                    lines.append(f"n1 believes: {found.name} {was} -> {found.state.name.lower()}{by}")
                case events.SendDatagram(target=target, datagram=datagram):
                    if datagram.kind is Kind.INDIRECT_PING:
                        lines.append(f"n1 -> {target}: ping {datagram.target} for me")
        incarnation = self.bench.monitor.me.incarnation
        if incarnation != self.incarnation:
            self.incarnation = incarnation
            lines.append(f"n1 refutes with incarnation {incarnation}")
        return list(dict.fromkeys(lines))  # each request once: it is repeated until the member answers


class Election:
    """The register of the view, and the verdicts on its members; commands are methods."""

    def __init__(self) -> None:
        self.view: View | None = None
        self.members: dict[str, Member] = {}
        self.reporters: dict[str, Sequence[str]] = {}

    def carry_out(self, command: Command) -> Iterable[str]:
        """Carries a command out and returns what came of it."""
        do: Callable[[Command], Iterable[str]] = getattr(self, f"do_{command.name}")
        return list(do(command))

    def do_alive(self, command: Command) -> Iterable[str]:
        """Nodes are there, with another boot if they had one before and come back."""
        for name in command.words:
            before = self.members.get(name)
            boot = 1 if before is None else before.boot + (before.state is State.DEAD)
            boot = int(command.options.get("boot", boot))
            self.members[name] = member(name, boot=boot)
            self.reporters.pop(name, None)
        return []

    def do_dead(self, command: Command) -> Iterable[str]:
        """A node is believed dead; ``by`` names the nodes that found it silent themselves."""
        (name,) = command.words
        self.members[name] = self.members[name].with_state(State.DEAD)
        self.reporters[name] = command.list_of("by")
        return []

    def do_propose(self, command: Command) -> Iterable[str]:
        """Lets a node propose the view that its verdicts make of the present one."""
        found = views.propose(self.view, self.members, self.reporters)
        if found is None:
            return ["nothing changes"]
        self.view = found.checked()
        return self._shown()

    def do_replace_voter(self, command: Command) -> Iterable[str]:
        """Begins to replace a voter by another node."""
        old, new = command.words
        return self._change(lambda: views.replace_voter(self.view, old, new, NAMES[:3]))

    def do_finish(self, command: Command) -> Iterable[str]:
        """Ends the replacement, once the view with both groups is known to be chosen."""
        return self._change(lambda: views.finish_replacement(self.view, self.view))

    def _change(self, change: Callable[[], View | None]) -> list[str]:
        try:
            self.view = change()
        except RainStormError as error:
            return [f"refused, {error.code}: {error.message}"]
        return self._shown()

    def _shown(self) -> list[str]:
        view = self.view
        assert view is not None
        down = [name for name in sorted(view.nodes) if not view.is_up(name)]
        lines = [f"view {view.version}: term {view.term}, leader {view.leader or 'nobody'}"]
        lines.append(f"  up {','.join(view.up_names()) or 'nobody'}; down {','.join(down) or 'nobody'}")
        if view.voters:
            groups = views.groups(view, NAMES[:3])
            lines.append("  a majority decides of " + ", and of ".join(",".join(group) for group in groups))
        return lines


WORLDS: dict[str, Callable[[], Watch | Election]] = {
    "suspicion": Watch,
    "refutation": Watch,
    "election": Election,
    "voters": Election,
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    play(path, WORLDS[path.stem]().carry_out)
