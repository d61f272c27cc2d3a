"""Mutants of membership's rules: beliefs, the agreed view, sealed datagrams."""

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
SELFTEST = "agent/membership/core/beliefs/selftest.py"
MONITOR = "agent/membership/core/monitor.py"

OF_TABLE = "tests/unit/membership/core/beliefs/test_table.py"
OF_ROSTER = "tests/unit/membership/core/beliefs/test_roster.py"
OF_SUSPICION = "tests/unit/membership/core/beliefs/test_suspicion.py"
OF_SWIM = "tests/unit/membership/core/detectors/test_swim.py"
OF_VIEW_RULES = "tests/unit/membership/core/test_view.py"
OF_NODE = "tests/unit/membership/core/test_node.py"
OF_SEAL = "tests/unit/membership/core/dissemination/test_seal.py"
OF_KEYRING = "tests/unit/membership/core/dissemination/test_keyring.py"
OF_VIEW = "tests/unit/membership/test_view.py"
OF_SELFTEST = "tests/unit/membership/core/beliefs/test_selftest.py"
OF_MONITOR = "tests/unit/membership/core/test_monitor.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "an older record does not replace a newer one",
        TABLE,
        "return current is None or member.precedence > current.precedence",
        "return True",
        (f"{OF_TABLE}::test_precedence",),
    ),
    Mutant(
        "a refutation has a higher incarnation than the accusation",
        ROSTER,
        "self.me = replace(self.me, incarnation=said.incarnation + 1)",
        "self.me = replace(self.me, incarnation=said.incarnation)",
        (f"{OF_SWIM}::test_suspected_node_refutes",),
    ),
    Mutant(
        "a node that is accused refutes",
        ROSTER,
        "        if member.precedence > self.me.precedence:\n",
        "        if False:\n",
        (f"{OF_SWIM}::test_suspected_node_refutes",),
    ),
    Mutant(
        "changes of two records do not cancel each other out in the digest",
        TABLE,
        'mmh3.hash(f"{member.name}\\0{member.uuid}\\0{member.precedence}", signed=False)',
        '__import__("zlib").crc32(f"{member.name}\\0{member.uuid}\\0{member.precedence}".encode())',
        (f"{OF_TABLE}::test_equal_changes_of_two_records_do_not_cancel_out_in_the_digest",),
    ),
    Mutant(
        "an accusation that was refuted before is answered again",
        ROSTER,
        "            self.missed_refutation = True\n",
        "            self.missed_refutation = False\n",
        (f"{OF_SWIM}::test_who_missed_a_refutation_gets_it_again",),
    ),
    Mutant(
        "a node that joins again gives its suspects their whole time",
        MONITOR,
        "        self.roster.restart_suspicions(now)\n",
        "",
        (f"{OF_MONITOR}::test_a_node_that_joins_again_calls_nobody_dead_whom_it_suspected_before",),
    ),
    Mutant(
        "an accusation by a suspect does not count",
        ROSTER,
        "if accuser is not None and accuser.state is not State.ALIVE:",
        "if False:",
        (f"{OF_SWIM}::test_accusation_by_a_suspect_does_not_count",),
    ),
    Mutant(
        "a death that others report is checked first",
        ROSTER,
        "mature = suspicion is not None and now - suspicion.started_at >= self._config.probe_duration_s",
        "mature = True",
        (f"{OF_ROSTER}::test_death_heard_right_after_the_suspicion_is_not_believed_yet",),
    ),
    Mutant(
        "a suspect that shows signs of life is probed again",
        ROSTER,
        "if self._alive_at.get(name, 0.0) > suspicion.started_at:",
        "if False:",
        (f"{OF_SWIM}::test_a_member_whose_requests_arrive_is_not_declared_dead",),
    ),
    Mutant(
        "the second node with one disk is refused",
        ROSTER,
        "        self.refuse(now, member, holder.name)\n        return True\n",
        "        return False\n",
        (f"{OF_ROSTER}::test_the_second_node_with_one_disk_is_refused_and_told",),
    ),
    Mutant(
        "the table is bounded",
        ROSTER,
        "if current is None and len(self.table) >= MEMBERS_MAX:",
        "if False:",
        (f"{OF_ROSTER}::test_table_is_bounded_whatever_others_invent",),
    ),
    Mutant(
        "one accuser confirms a suspicion once",
        SUSPICION,
        "if accuser in self.accusers or len(self.accusers) > self.wanted:",
        "if len(self.accusers) > self.wanted:",
        (f"{OF_SUSPICION}::test_the_first_accuser_and_repeated_ones_do_not_confirm",),
    ),
    Mutant(
        "a suspect gets the time to refute",
        SUSPICION,
        "return max(self.started_at + waited, self.not_before_at)",
        "return self.started_at",
        (f"{OF_SUSPICION}::test_postponed_verdict_stays_postponed",),
    ),
    Mutant(
        "a member is asked through others before it is accused",
        SWIM,
        "        if probe.indirect:\n",
        "        if True:\n",
        (f"{OF_SWIM}::test_missing_nacks_are_this_nodes_own_fault",),
    ),
    Mutant(
        "an eviction from a cluster of five needs two witnesses",
        VIEW_RULES,
        "return 2 if view is not None and len(view.up_names()) >= REPORTERS_FROM_NODES else 1",
        "return 1",
        (f"{OF_VIEW_RULES}::test_one_reporter_evicts_no_node_in_a_cluster_of_five",),
    ),
    Mutant(
        "a node that is down is not a witness",
        VIEW_RULES,
        "return sum(entry is None or entry.state != DOWN for entry in entries)",
        "return len(entries)",
        (f"{OF_VIEW_RULES}::test_one_reporter_evicts_no_node_in_a_cluster_of_five",),
    ),
    Mutant(
        "a change of leader is a new term",
        VIEW_RULES,
        "return replace(view, leader=chosen, term=view.term + 1)",
        "return replace(view, leader=chosen)",
        (f"{OF_VIEW_RULES}::test_a_dead_leader_is_replaced_and_does_not_get_its_place_back",),
    ),
    Mutant(
        "a leader that comes back with another boot does not lead in its old term",
        VIEW_RULES,
        "and after.state == UP and before.node_id == after.node_id:",
        "and after.state == UP:",
        (f"{OF_VIEW_RULES}::test_a_new_boot_is_a_change_and_of_a_leader_a_new_term",),
    ),
    Mutant(
        "the death of an earlier life does not evict the present one",
        VIEW_RULES,
        "return None if member.boot < entry.boot else NodeEntry(DOWN, entry.node_id)",
        "return NodeEntry(DOWN, entry.node_id)",
        (f"{OF_VIEW_RULES}::test_news_of_an_earlier_life_changes_nothing",),
    ),
    Mutant(
        "a disk is up under only one name",
        VIEW_RULES,
        "if member.state is State.ALIVE and _is_taken(nodes, member):",
        "if False:",
        (f"{OF_VIEW_RULES}::test_a_disk_that_is_up_under_another_name_does_not_join",),
    ),
    Mutant(
        "both groups of voters decide while one of them is replaced",
        VIEW_RULES,
        "return (view.voters_before, now) if view.voters_before else (now,)",
        "return (now,)",
        (f"{OF_VIEW_RULES}::test_a_voter_is_replaced_through_a_view_in_which_both_groups_decide",),
    ),
    Mutant(
        "a replacement of a voter is finished only as it was chosen",
        VIEW_RULES,
        "if (view.voters_before, view.voters) != (chosen.voters_before, chosen.voters):",
        "if False:",
        (f"{OF_VIEW_RULES}::test_a_voter_is_replaced_through_a_view_in_which_both_groups_decide",),
    ),
    Mutant(
        "a node without a majority of the voters proposes nothing",
        NODE,
        "if due_at is not None and now >= due_at and not self.majority:",
        "if False:",
        (f"{OF_NODE}::test_only_a_node_that_sees_a_majority_of_the_voters_proposes",),
    ),
    Mutant(
        "an older view does not replace a newer one",
        "agent/membership/core/proposer.py",
        "if views.version(view) <= views.version(self.view):",
        "if False:",
        (f"{OF_NODE}::test_a_newer_view_that_is_heard_of_is_read_and_only_once_at_a_time",),
    ),
    Mutant(
        "the node that was evicted does not readmit itself",
        NODE,
        "            del members[me.name]\n",
        "            pass\n",
        (f"{OF_NODE}::test_a_node_that_was_evicted_is_readmitted_by_others_only",),
    ),
    Mutant(
        "a view that contradicts itself is refused",
        VIEW,
        "        if problem:\n",
        "        if False:\n",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "a datagram is opened once",
        SEAL,
        "        if age >= WINDOW or self._bits >> age & 1:\n            return False\n",
        "        if age >= WINDOW:\n            return False\n",
        (f"{OF_SEAL}::test_only_keys_of_the_ring_open",),
    ),
    Mutant(
        "a datagram older than the replay window is dropped",
        SEAL,
        "if age >= WINDOW or self._bits >> age & 1:",
        "if age < WINDOW and self._bits >> age & 1:",
        (f"{OF_SEAL}::test_a_replay_is_dropped_and_disorder_is_not",),
    ),
    Mutant(
        "a datagram of an earlier boot is dropped",
        SEAL,
        "if known is not None and boot < known.boot:",
        "if False:",
        (f"{OF_SEAL}::test_an_earlier_boot_is_refused_and_a_forged_later_one_does_not_lock_the_sender_out",),
    ),
    Mutant(
        "the window of a session is not reset by a second session of one boot",
        SEAL,
        "if known is not None and fresh and boot == known.boot:",
        "if False:",
        (f"{OF_SEAL}::test_an_earlier_boot_is_refused_and_a_forged_later_one_does_not_lock_the_sender_out",),
    ),
    Mutant(
        "the senders that a receiver remembers are bounded",
        SEAL,
        "if fresh and len(self._sessions) >= SENDERS_MAX and name not in self._sessions:",
        "if False:",
        (f"{OF_SEAL}::test_what_a_holder_of_the_key_can_make_a_receiver_store_is_bounded",),
    ),
    Mutant(
        "the key in use is not removed from the ring",
        KEYRING,
        "        if key == self.primary:\n",
        "        if False:\n",
        (f"{OF_KEYRING}::test_changes_that_are_refused",),
    ),
    Mutant(
        "accusers that are remembered are bounded",
        SELFTEST,
        "if accuser in self._accused_at or len(self._accused_at) < ACCUSERS_MAX:",
        "if True:",
        (f"{OF_SELFTEST}::test_accusers_are_bounded_and_old_ones_make_room",),
    ),
    Mutant(
        "an impostor changes nothing about sessions",
        SEAL,
        "        if not admit(sender):\n",
        "        self._sessions[name] = entry\n        if not admit(sender):\n",
        (f"{OF_SEAL}::test_what_a_holder_of_the_key_can_make_a_receiver_store_is_bounded",),
    ),
    Mutant(
        "a node adopts a later boot than the cluster knows",
        MONITOR,
        "if datagram.kind is Kind.STALE_BOOT and datagram.sequence > self.me.boot:",
        "if False:",
        (f"{OF_ROSTER}::test_node_that_is_known_in_a_later_boot_adopts_one_above_it",),
    ),
    Mutant(
        "a node with a stale boot is told that it is stale",
        MONITOR,
        "                    self._out.send(name, Kind.STALE_BOOT, boot)\n",
        "                    pass\n",
        (f"{OF_MONITOR}::test_an_earlier_boot_of_a_name_is_informed_now_and_then",),
    ),
    Mutant(
        "a view in which a voter votes twice is refused",
        VIEW,
        "if len(frozenset(group)) != len(group):",
        "if False:",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "the leader of a view is up",
        VIEW,
        "if view.leader and not view.is_up(view.leader):",
        "if False:",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "a line feed does not end a node id",
        VIEW,
        '{1,18}\\Z")]',
        '{1,18}$")]',
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "an entry of a view is no newer than the view",
        VIEW,
        "if entry.since > view.version:",
        "if False:",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "voters_before needs voters",
        VIEW,
        "if view.voters_before and not view.voters:",
        "if False:",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
    Mutant(
        "the name of a node fits a datagram",
        VIEW,
        'if len(name.encode("utf-8", "replace")) > NODE_NAME_BYTES_MAX:',
        "if False:",
        (f"{OF_VIEW}::test_what_is_not_a_view_is_refused",),
    ),
)
