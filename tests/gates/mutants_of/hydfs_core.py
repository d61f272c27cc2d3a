"""Mutants of the store's rules: blocks, coordinators, replicas, the file table, repair."""

from __future__ import annotations

from tests.gates.mutant import Mutant

BLOCK = "agent/hydfs/core/block.py"
COORDINATOR = "agent/hydfs/core/coordinator.py"
TABLE = "agent/hydfs/core/filetable.py"
REPLICA = "agent/hydfs/core/replica.py"
TAKEOVER = "agent/hydfs/core/takeover.py"
REPAIR = "agent/hydfs/core/repair.py"
PLACEMENT = "agent/hydfs/core/placement.py"

OF_BLOCK = "tests/unit/hydfs/core/test_block.py"
OF_COORDINATOR = "tests/unit/hydfs/core/test_coordinator.py"
OF_TABLE = "tests/unit/hydfs/core/test_filetable.py"
OF_REPLICA = "tests/unit/hydfs/core/test_replica.py"
OF_TAKEOVER = "tests/unit/hydfs/core/test_takeover.py"
OF_REPAIR = "tests/unit/hydfs/core/test_repair.py"
OF_PLACEMENT = "tests/unit/hydfs/core/test_placement.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a late promise does not unseal a block",
        BLOCK,
        "            if meta.state == OPEN:\n",
        "            if True:\n",
        (f"{OF_BLOCK}::test_a_copy_goes_from_open_to_promised_to_sealed_and_away",),
    ),
    Mutant(
        "nothing is written behind a record that the disk refused",
        BLOCK,
        "return not (isinstance(entry, RecordEntry) and entry.key in self._keys)",
        "return True",
        (f"{OF_BLOCK}::test_after_a_refused_record_its_copy_takes_no_record_until_it_is_final",),
    ),
    Mutant(
        "a file id does not lead out of the folder of the blocks",
        BLOCK,
        r'pattern=r"^[0-9A-Za-z_-]{1,64}\Z"',
        r'pattern=r"^.{1,64}\Z"',
        (f"{OF_BLOCK}::test_an_entry_that_is_not_valid_is_refused",),
    ),
    Mutant(
        "a sequence that a writer's record in flight has passed is refused",
        COORDINATOR,
        "if event.sequence > newest:",
        "if True:",
        (f"{OF_COORDINATOR}::test_a_late_sequence_is_refused_while_a_later_one_is_in_flight",),
    ),
    Mutant(
        "a pair of writer and sequence is appended once",
        COORDINATOR,
        "if mark is None or event.sequence > mark[0]:",
        "if True:",
        (f"{OF_COORDINATOR}::test_a_repeated_append_gets_the_first_answer",),
    ),
    Mutant(
        "a client is answered once enough copies are durable",
        COORDINATOR,
        "elif len(flight.acked) >= self._needed:",
        "elif flight.acked:",
        (f"{OF_COORDINATOR}::test_a_failed_replica_seals_at_the_committed_length",),
    ),
    Mutant(
        "a replica confirms only the records that it has",
        COORDINATOR,
        "if flight.record is not None and flight.record.end <= event.end:",
        "if flight.record is not None:",
        (f"{OF_COORDINATOR}::test_a_replica_confirms_no_record_behind_the_one_that_it_names",),
    ),
    Mutant(
        "a seal names only the replicas that hold all committed bytes",
        COORDINATOR,
        "holders = tuple(node for node, held in self._held.items() if held >= self.committed)",
        "holders = tuple(self._held)",
        (f"{OF_COORDINATOR}::test_a_seal_names_exactly_the_replicas_that_hold_all_committed_records",),
    ),
    Mutant(
        "a condition on the offset is checked",
        COORDINATOR,
        "if event.if_offset is not None and event.if_offset != end_of_file:",
        "if False:",
        (f"{OF_COORDINATOR}::test_a_refused_condition_waits_for_what_it_rests_on",),
    ),
    Mutant(
        "a replica that does not answer in time makes the coordinator seal the block",
        COORDINATOR,
        "if deadline is None or now < deadline:",
        "if True:",
        (f"{OF_COORDINATOR}::test_a_silent_replica_is_given_up_after_the_timeout",),
    ),
    Mutant(
        "records in flight are bounded",
        COORDINATOR,
        "full = len(self._flights) >= WINDOW_RECORDS",
        "full = False",
        (f"{OF_COORDINATOR}::test_a_late_sequence_that_waits_behind_the_later_one_is_refused_too",),
    ),
    Mutant(
        "appends that wait are bounded",
        COORDINATOR,
        "if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(event.data) > WAITING_BYTES_MAX:",
        "if False:",
        (f"{OF_COORDINATOR}::test_waiting_payloads_are_bounded_in_bytes",),
    ),
    Mutant(
        "a late begin does not revive a put that has ended",
        TABLE,
        "        if state == CREATING and entry.state != CREATING:",
        "        if False:",
        (f"{OF_TABLE}::test_a_put_is_invisible_until_published_and_can_be_given_up",),
    ),
    Mutant(
        "the replicas that promise meet every set that can acknowledge",
        TABLE,
        "return replicas - needed_acks(ack, replicas) + 1",
        "return replicas - needed_acks(ack, replicas)",
        (f"{OF_TABLE}::test_promises_meet_every_acknowledging_set",),
    ),
    Mutant(
        "a quorum is a majority of the replicas",
        TABLE,
        'return replicas if ack == "all" else replicas // 2 + 1',
        'return replicas if ack == "all" else max(1, replicas // 2)',
        (f"{OF_TABLE}::test_a_quorum_is_more_than_half_of_the_replicas",),
    ),
    Mutant(
        "a block that was sealed by another node stays as it is",
        TABLE,
        "if block is None or block.number != number:",
        "if block is None:",
        (f"{OF_TABLE}::test_a_seal_of_an_earlier_block_leaves_the_open_one_alone",),
    ),
    Mutant(
        "a file that still takes appends is not deleted",
        TABLE,
        "        if entry.open_block is not None:\n            raise Conflict",
        "        if False:\n            raise Conflict",
        (f"{OF_TABLE}::test_a_file_with_an_open_block_is_not_deleted",),
    ),
    Mutant(
        "only an abandoned reservation is replaced",
        TABLE,
        "entry.state == CREATING and entry.file_id == instead_of:",
        "entry.state == CREATING:",
        (f"{OF_TABLE}::test_a_put_is_invisible_until_published_and_can_be_given_up",),
    ),
    Mutant(
        "a put that was aborted does not become visible",
        TABLE,
        "if entry is None or entry.file_id != file_id or entry.state == DELETED:\n            raise Conflict",
        "if entry is None or entry.file_id != file_id:\n            raise Conflict",
        (f"{OF_TABLE}::test_a_put_that_was_given_up_stays_deleted",),
    ),
    Mutant(
        "a block keeps at least one holder",
        TABLE,
        "        if not holders:\n",
        "        if False:\n",
        (f"{OF_TABLE}::test_replicas_change_only_on_sealed_blocks_and_never_to_none",),
    ),
    Mutant(
        "an entry of the file table that contradicts itself is refused",
        TABLE,
        "    if problem:\n",
        "    if False:\n",
        (f"{OF_TABLE}::test_what_is_no_entry_is_refused_before_a_vote_and_named_when_it_is_read",),
    ),
    Mutant(
        "a copy that promised takes no more records",
        REPLICA,
        "        if copy.state != OPEN:\n            return AnswerWrite",
        "        if False:\n            return AnswerWrite",
        (f"{OF_REPLICA}::test_a_promise_survives_a_restart",),
    ),
    Mutant(
        "one session writes a block",
        REPLICA,
        "if copy.session != event.session:",
        "if False:",
        (f"{OF_REPLICA}::test_a_record_that_does_not_continue_the_copy_is_refused",),
    ),
    Mutant(
        "a record continues the checksum of the copy",
        REPLICA,
        "if chain(event.data, copy.received_crc) != record.crc:",
        "if False:",
        (f"{OF_REPLICA}::test_a_record_that_does_not_continue_the_copy_is_refused",),
    ),
    Mutant(
        "a sealed block takes no records",
        REPLICA,
        "        if event.key in self._sealed:\n            return [AnswerWrite",
        "        if False:\n            return [AnswerWrite",
        (f"{OF_REPLICA}::test_a_sealed_block_takes_nothing",),
    ),
    Mutant(
        "a replica that dropped a block rejects its records",
        REPLICA,
        "if event.key in self._gone:",
        "if False:",
        (f"{OF_REPLICA}::test_a_dropped_block_takes_nothing",),
    ),
    Mutant(
        "a promise is durable before it is answered",
        REPLICA,
        "if not copy.durable_promise or copy.durable < copy.received:",
        "if copy.durable < copy.received:",
        (f"{OF_REPLICA}::test_a_promise_that_is_not_durable_yet_is_not_answered_by_a_record_that_is",),
    ),
    Mutant(
        "a promise covers every record that was taken",
        REPLICA,
        "if not copy.durable_promise or copy.durable < copy.received:",
        "if not copy.durable_promise:",
        (f"{OF_REPLICA}::test_a_promise_is_durable_before_it_is_answered_and_stops_records",),
    ),
    Mutant(
        "a record is durable before it is answered",
        REPLICA,
        "            if record.end <= copy.durable:\n",
        "            if True:\n",
        (f"{OF_REPLICA}::test_a_record_that_is_sent_again_while_it_is_written_waits_for_the_disk",),
    ),
    Mutant(
        "a copy that lost a record takes none behind it",
        REPLICA,
        "copy.broken = event.code",
        "pass",
        (f"{OF_REPLICA}::test_a_full_disk_refuses_everything_behind_it",),
    ),
    Mutant(
        "records that arrive early are bounded",
        REPLICA,
        "if len(copy.held) >= HELD_MAX:",
        "if False:",
        (f"{OF_REPLICA}::test_an_early_record_waits_for_its_predecessor",),
    ),
    Mutant(
        "a block is sealed only with enough promises",
        TAKEOVER,
        "if len(sound) < self._needed:",
        "if not sound:",
        (f"{OF_TAKEOVER}::test_a_quorum_needs_two_promises",),
    ),
    Mutant(
        "the longest promised copy is the block",
        TAKEOVER,
        "best = max(promises, key=lambda promise: promise.length)",
        "best = min(promises, key=lambda promise: promise.length)",
        (f"{OF_TAKEOVER}::test_the_longest_copy_wins_and_the_lost_are_named",),
    ),
    Mutant(
        "a copy that may have lost its tail counts only when all answer",
        TAKEOVER,
        "if everybody or not promise.doubtful",
        "if True",
        (f"{OF_TAKEOVER}::test_a_doubtful_copy_counts_only_when_all_answer",),
    ),
    Mutant(
        "a takeover names only the holders of the longest copy",
        TAKEOVER,
        "            if (promise.length, promise.crc) == (best.length, best.crc)\n",
        "",
        (f"{OF_TAKEOVER}::test_a_copy_of_the_same_length_with_other_bytes_is_no_holder",),
    ),
    Mutant(
        "the file table forgets a lost holder only when enough are left",
        REPAIR,
        "dead if enough else ()",
        "dead",
        (f"{OF_REPAIR}::test_a_lost_holder_stays_named_while_its_copy_may_be_needed",),
    ),
    Mutant(
        "a copy is dropped only when enough other nodes hold the block",
        REPAIR,
        "return [Drop(block.number)] if len(alive) >= wanted else [Announce(block)]",
        "return [Drop(block.number)]",
        (f"{OF_REPAIR}::test_local_copies_follow_the_table",),
    ),
    Mutant(
        "a copy that differs from the file table is not announced",
        REPAIR,
        "if meta.state != SEALED or (meta.length, meta.crc) != (block.length, block.crc):",
        "if meta.state != SEALED:",
        (f"{OF_REPAIR}::test_a_copy_that_differs_from_the_table_is_certified_before_it_counts",),
    ),
    Mutant(
        "no block goes to a store that is known to be down",
        PLACEMENT,
        "if node not in gone]",
        "]",
        (f"{OF_PLACEMENT}::test_nodes_without_a_store_are_not_chosen_even_when_the_others_are_too_few",),
    ),
    Mutant(
        "records that came early are answered when the copy is dropped",
        REPLICA,
        " + [early.token for early in copy.held.values()]\n"
        "        effects: list[Effect] = [\n"
        '            AnswerWrite(token, 0, "NOT_FOUND"',
        '\n        effects: list[Effect] = [\n            AnswerWrite(token, 0, "NOT_FOUND"',
        (f"{OF_REPLICA}::test_a_dropped_copy_answers_everybody_who_waits",),
    ),
    Mutant(
        "sealing nodes are answered when the copy is dropped",
        REPLICA,
        'return effects + [Refuse(token, "NOT_FOUND", "the copy was dropped") for token in copy.sealers]',
        "return effects",
        (f"{OF_REPLICA}::test_a_dropped_copy_answers_everybody_who_waits",),
    ),
)
