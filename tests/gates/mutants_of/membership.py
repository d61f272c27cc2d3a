"""Mutants of membership: beliefs, the agreed view, sealed datagrams, the node's identity."""

from __future__ import annotations

from tests.gates.mutant import Mutant

TABLE = "agent/membership/core/beliefs/table.py"
ROSTER = "agent/membership/core/beliefs/roster.py"
SUSPICION = "agent/membership/core/beliefs/suspicion.py"
SWIM = "agent/membership/core/detectors/swim.py"
VIEW_RULES = "agent/membership/core/view.py"
NODE = "agent/membership/core/node.py"
SEAL = "agent/membership/core/dissemination/seal.py"
KEYRING = "agent/membership/core/dissemination/keyring.py"
VIEW = "agent/membership/view.py"
TRANSPORT = "agent/membership/shell/transport.py"
STORE = "agent/membership/shell/store.py"

OF_TABLE = ("tests/unit/membership/core/beliefs/test_table.py",)
OF_ROSTER = ("tests/unit/membership/core/beliefs/test_roster.py",)
OF_SUSPICION = ("tests/unit/membership/core/beliefs/test_suspicion.py",)
OF_SWIM = ("tests/unit/membership/core/detectors/test_swim.py",)
OF_VIEW_RULES = ("tests/unit/membership/core/test_view.py",)
OF_NODE = ("tests/unit/membership/core/test_node.py",)
OF_SEAL = ("tests/unit/membership/core/dissemination/test_seal.py",)
OF_KEYRING = ("tests/unit/membership/core/dissemination/test_keyring.py",)
OF_VIEW = ("tests/unit/membership/test_view.py",)
OF_TRANSPORT = ("tests/unit/membership/shell/test_transport.py",)
OF_STORE = ("tests/unit/membership/shell/test_store.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "an older record does not replace a newer one",
        TABLE,
        "return current is None or member.precedence > current.precedence",
        "return True",
        OF_TABLE,
    ),
    Mutant(
        "a refutation has a higher incarnation than the accusation",
        ROSTER,
        "self.me = replace(self.me, incarnation=said.incarnation + 1)",
        "self.me = replace(self.me, incarnation=said.incarnation)",
        OF_SWIM,
    ),
    Mutant(
        "a node that is accused refutes",
        ROSTER,
        "        if member.precedence > self.me.precedence:\n",
        "        if False:\n",
        OF_SWIM,
    ),
    Mutant(
        "an accusation that was refuted before is answered again",
        ROSTER,
        "            self.missed_refutation = True\n",
        "            self.missed_refutation = False\n",
        OF_SWIM,
    ),
    Mutant(
        "an accusation by a suspect does not count",
        ROSTER,
        "if accuser is not None and accuser.state is not State.ALIVE:",
        "if False:",
        (*OF_ROSTER, *OF_SWIM),
    ),
    Mutant(
        "a death that others tell of is checked first",
        ROSTER,
        "mature = suspicion is not None and now - suspicion.started_at >= self._config.probe_duration_s",
        "mature = True",
        (*OF_ROSTER, *OF_SWIM),
    ),
    Mutant(
        "a suspect that shows signs of life is probed again",
        ROSTER,
        "if self._alive_at.get(name, 0.0) > suspicion.started_at:",
        "if False:",
        (*OF_ROSTER, *OF_SWIM),
    ),
    Mutant(
        "the second node with one disk is refused",
        ROSTER,
        "        self.refuse(now, member, holder.name)\n        return True\n",
        "        return False\n",
        OF_ROSTER,
    ),
    Mutant(
        "the table is bounded",
        ROSTER,
        "if current is None and len(self.table) >= MEMBERS_MAX:",
        "if False:",
        OF_ROSTER,
    ),
    Mutant(
        "one accuser confirms a suspicion once",
        SUSPICION,
        "if accuser in self.accusers or len(self.accusers) > self.wanted:",
        "if len(self.accusers) > self.wanted:",
        OF_SUSPICION,
    ),
    Mutant(
        "a suspect gets the time to refute",
        SUSPICION,
        "return max(self.started_at + waited, self.not_before_at)",
        "return self.started_at",
        (*OF_SUSPICION, *OF_SWIM),
    ),
    Mutant(
        "a member is asked through others before it is accused",
        SWIM,
        "        if probe.indirect:\n",
        "        if True:\n",
        OF_SWIM,
    ),
    Mutant(
        "an eviction from a cluster of five needs two witnesses",
        VIEW_RULES,
        "return 2 if view is not None and len(view.up_names()) >= REPORTERS_FROM_NODES else 1",
        "return 1",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a node that is down is no witness",
        VIEW_RULES,
        "return sum(entry is None or entry.state != DOWN for entry in entries)",
        "return len(entries)",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a change of leader is a new term",
        VIEW_RULES,
        "return replace(view, leader=chosen, term=view.term + 1)",
        "return replace(view, leader=chosen)",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a leader that comes back with another boot does not lead in its old term",
        VIEW_RULES,
        "and after.state == UP and before.node_id == after.node_id:",
        "and after.state == UP:",
        OF_VIEW_RULES,
    ),
    Mutant(
        "the death of an earlier life does not evict the present one",
        VIEW_RULES,
        "return None if member.boot < entry.boot else NodeEntry(DOWN, entry.node_id)",
        "return NodeEntry(DOWN, entry.node_id)",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a disk is up under one name only",
        VIEW_RULES,
        "if member.state is State.ALIVE and _is_taken(nodes, member):",
        "if False:",
        OF_VIEW_RULES,
    ),
    Mutant(
        "both groups of voters decide while one of them is replaced",
        VIEW_RULES,
        "return (view.voters_before, now) if view.voters_before else (now,)",
        "return (now,)",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a replacement of a voter is finished only as it was chosen",
        VIEW_RULES,
        "if (view.voters_before, view.voters) != (chosen.voters_before, chosen.voters):",
        "if False:",
        OF_VIEW_RULES,
    ),
    Mutant(
        "a node without a majority of the voters proposes nothing",
        NODE,
        "if due_at is not None and now >= due_at and not self.majority:",
        "if False:",
        OF_NODE,
    ),
    Mutant(
        "an older view does not replace a newer one",
        "agent/membership/core/proposer.py",
        "if views.version(view) <= views.version(self.view):",
        "if False:",
        ("tests/unit/membership/core/test_proposer.py", *OF_NODE),
    ),
    Mutant(
        "the node that was evicted does not readmit itself",
        NODE,
        "            del members[me.name]\n",
        "            pass\n",
        OF_NODE,
    ),
    Mutant(
        "a view that contradicts itself is refused",
        VIEW,
        "        if problem:\n",
        "        if False:\n",
        OF_VIEW,
    ),
    Mutant(
        "a datagram is opened once",
        SEAL,
        "        if age >= WINDOW or self._bits >> age & 1:\n            return False\n",
        "        if age >= WINDOW:\n            return False\n",
        OF_SEAL,
    ),
    Mutant(
        "a datagram older than the replay window is dropped",
        SEAL,
        "if age >= WINDOW or self._bits >> age & 1:",
        "if age < WINDOW and self._bits >> age & 1:",
        OF_SEAL,
    ),
    Mutant(
        "a datagram of an earlier boot is dropped",
        SEAL,
        "if known is not None and boot < known.boot:",
        "if False:",
        OF_SEAL,
    ),
    Mutant(
        "the window of a session is not reset by a second session of one boot",
        SEAL,
        "if known is not None and fresh and boot == known.boot:",
        "if False:",
        OF_SEAL,
    ),
    Mutant(
        "the senders that a receiver remembers are bounded",
        SEAL,
        "if fresh and len(self._sessions) >= SENDERS_MAX and name not in self._sessions:",
        "if False:",
        OF_SEAL,
    ),
    Mutant(
        "the key in use is not removed from the ring",
        KEYRING,
        "        if key == self.primary:\n",
        "        if False:\n",
        OF_KEYRING,
    ),
    Mutant(
        "a datagram in the name of a node comes from its address",
        TRANSPORT,
        "if self._addresses.get(sender, address) == address:",
        "if True:",
        OF_TRANSPORT,
    ),
    Mutant(
        "a receiver that dies ends its agent",
        TRANSPORT,
        "                self._on_crash(error)\n",
        "                pass\n",
        OF_TRANSPORT,
    ),
    Mutant(
        "two lives of a node have different boots",
        STORE,
        "Identity(before.uuid, before.boot + 1)",
        "Identity(before.uuid, before.boot)",
        OF_STORE,
    ),
)
