"""Mutants of the store's shells: the disk, the requests of other nodes, puts."""

from __future__ import annotations

from tests.gates.mutant import Mutant

STORE = "agent/hydfs/shell/store.py"
FILES = "agent/hydfs/shell/blockfile.py"
NEW_DISK = "agent/hydfs/shell/newdisk.py"
SEALER = "agent/hydfs/shell/takeover.py"
REPLICA_SHELL = "agent/hydfs/shell/replica.py"
GATEWAY = "agent/hydfs/shell/gateway.py"
SHELL_TABLE = "agent/hydfs/shell/filetable.py"
PUT = "agent/hydfs/shell/put.py"
OUTGOING = "agent/hydfs/shell/transfers/outgoing.py"
TRANSFERS = "agent/hydfs/shell/transfers/incoming.py"
ENGINE = "agent/hydfs/shell/node.py"
WAITERS = "agent/hydfs/shell/waiting/waiter.py"
PEERS = "agent/hydfs/shell/peers.py"
SERVICE = "agent/hydfs/service.py"
REPAIR = "agent/hydfs/shell/repair.py"

OF_STORE = "tests/unit/hydfs/shell/test_store.py"
OF_JOURNAL = "tests/unit/hydfs/shell/test_journal.py"
OF_FILES = "tests/unit/hydfs/shell/test_blockfile.py"
OF_NEW_DISK = "tests/unit/hydfs/shell/test_newdisk.py"
OF_SEALER = "tests/unit/hydfs/shell/test_takeover.py"
OF_REPLICA_SHELL = "tests/unit/hydfs/shell/test_replica.py"
OF_PUT = "tests/unit/hydfs/shell/test_put.py"
OF_PUT_REPEATED = "tests/unit/hydfs/shell/test_put_repeated.py"
OF_OUTGOING = "tests/unit/hydfs/shell/transfers/test_outgoing.py"
OF_TRANSFERS = "tests/unit/hydfs/shell/transfers/test_incoming.py"
OF_ENGINE = "tests/unit/hydfs/shell/test_node.py"
OF_WAITERS = "tests/unit/hydfs/shell/waiting/test_waiter.py"
OF_PEERS = "tests/unit/hydfs/shell/test_peers.py"
OF_GATEWAY = "tests/unit/hydfs/shell/test_gateway.py"
OF_PAGES = "tests/unit/hydfs/shell/test_gateway_pages.py"
OF_SERVICE = "tests/unit/hydfs/test_service.py"
OF_REPAIR = "tests/unit/hydfs/shell/test_repair.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a large payload is synced before its journal entry is written",
        STORE,
        "        if flush:\n            self._files.sync(flush)\n",
        "",
        (f"{OF_STORE}::test_what_was_acknowledged_survives_every_power_cut",),
    ),
    Mutant(
        "the payloads of a batch are synced one by one",
        FILES,
        "        for key in keys:\n            disk.fdatasync(self._descriptor(key))\n",
        "        for key in keys:\n",
        (f"{OF_FILES}::test_what_was_synced_survives_with_its_name",),
    ),
    Mutant(
        "the name of a block's file is durable with its first payload",
        FILES,
        "        if self._unsynced_names:\n            self._sync_names()\n",
        "",
        (f"{OF_FILES}::test_what_was_synced_survives_with_its_name",),
    ),
    Mutant(
        "the name that an earlier process gave a block's file is durable with the next payload",
        FILES,
        "made some of the existing names.\n        self._unsynced_names = True\n",
        "made some of the existing names.\n        self._unsynced_names = False\n",
        (f"{OF_FILES}::test_a_name_that_a_killed_process_made_is_synced_with_the_next_payload",),
    ),
    Mutant(
        "payloads are synced before the journal that has them is dropped",
        FILES,
        "            if key in known and disk.exists(self.path(key)):\n"
        "                disk.fdatasync(self._descriptor(key))\n",
        "            pass\n",
        (f"{OF_FILES}::test_everything_known_is_synced_and_the_rest_forgotten",),
    ),
    Mutant(
        "a received block is synced before it is adopted",
        FILES,
        "            disk.fdatasync(self._file)\n",
        "            pass\n",
        (f"{OF_FILES}::test_a_part_on_a_failing_disk_is_gone",),
    ),
    Mutant(
        "a block that arrived damaged is refused",
        FILES,
        "if (self.length, self.crc) != (length, crc):",
        "if False:",
        (f"{OF_FILES}::test_a_part_that_arrived_damaged_is_gone",),
    ),
    Mutant(
        "the reserve of the disk is kept",
        FILES,
        "if self._store.free_bytes() < len(data):",
        "if False:",
        (f"{OF_FILES}::test_a_part_leaves_the_reserve_alone",),
    ),
    Mutant(
        "a sealed block is checked before it is read",
        STORE,
        "if self.crc_of(meta.key, meta.length) != meta.crc:",
        "if False:",
        (f"{OF_STORE}::test_a_sealed_block_that_was_damaged_is_never_read",),
    ),
    Mutant(
        "after a torn tail open copies are doubtful",
        STORE,
        "self.index[key] = replace(meta, state=state, doubtful=True)",
        "self.index[key] = replace(meta, state=state)",
        (f"{OF_JOURNAL}::test_an_entry_that_is_not_valid_is_set_aside_and_does_not_end_the_store",),
    ),
    Mutant(
        "a store whose disk fails ends its agent",
        STORE,
        "        self._on_crash(error)\n",
        "",
        (f"{OF_STORE}::test_a_failed_sync_ends_the_store_and_answers_no_append",),
    ),
    Mutant(
        "entries that the journal refused are not applied",
        STORE,
        "        for job in good:\n            if not job.code:\n",
        "        for job in good:\n            if True:\n",
        (f"{OF_STORE}::test_a_journal_without_room_refuses_its_entries",),
    ),
    Mutant(
        "an empty disk is marked as new before a store is made on it",
        NEW_DISK,
        'if not disk.exists(root / "journal"):',
        "if False:",
        (f"{OF_NEW_DISK}::test_a_mark_that_cannot_be_written_keeps_the_agent_from_starting",),
    ),
    Mutant(
        "a new disk's promise about a block that it does not know is doubtful",
        REPLICA_SHELL,
        "doubtful = self._new_disk.pending and key not in self.store.index",
        "doubtful = False",
        (f"{OF_REPLICA_SHELL}::test_a_new_disk_makes_doubtful_promises_about_blocks_it_does_not_know",),
    ),
    Mutant(
        "only the nodes of the cluster may write to a replica",
        REPLICA_SHELL,
        "if call.peer not in self.peers.names:",
        "if False:",
        (f"{OF_REPLICA_SHELL}::test_a_caller_that_is_no_node_of_the_cluster_is_refused",),
    ),
    Mutant(
        "copies of a live file are not dropped",
        REPLICA_SHELL,
        "if entry is not None and entry.file_id == request.file_id and entry.state != filetable.DELETED:",
        "if False:",
        (f"{OF_REPLICA_SHELL}::test_copies_are_dropped_only_when_the_table_says_so",),
    ),
    Mutant(
        "clients are answered when a seal fails",
        REPLICA_SHELL,
        '            self.post(SealFailed(effect.key, "INTERNAL", f"sealing failed: {error!r}"))\n',
        "",
        (f"{OF_REPLICA_SHELL}::test_a_seal_that_fails_unexpectedly_is_reported_to_the_clients",),
    ),
    Mutant(
        "a copy is certified only when its bytes match the file table",
        SEALER,
        "if good and self.store.crc_of(key, length) == crc:",
        "if good:",
        (f"{OF_SEALER}::test_a_copy_is_shortened_kept_or_dropped_as_the_table_says",),
    ),
    Mutant(
        "the slot of a block is given back once it is stored",
        PUT,
        "            return self._outgoing.place(block)\n        finally:\n            self._free_slot()",
        "            return self._outgoing.place(block)\n        finally:\n            pass",
        (f"{OF_PUT}::test_a_put_becomes_visible_with_its_commit",),
    ),
    Mutant(
        "a put that is aborted gives its slot back",
        PUT,
        "        if held:\n            self._free_slot()",
        "        if held:\n            pass",
        (f"{OF_PUT}::test_an_idle_put_is_aborted_and_one_with_a_request_is_not",),
    ),
    Mutant(
        "blocks in memory are bounded",
        PUT,
        "lambda: put.ended or self._free > 0",
        "lambda: True",
        (f"{OF_PUT}::test_a_piece_that_finds_no_slot_in_time_is_refused",),
    ),
    Mutant(
        "puts in progress are bounded",
        PUT,
        "if len(self._puts) >= PUTS_MAX:",
        "if False:",
        (f"{OF_PUT}::test_the_number_of_puts_is_bounded",),
    ),
    Mutant(
        "a second begin of a put does not reserve again",
        PUT,
        "            if put.refused is not None:\n                raise put.refused\n",
        "",
        (f"{OF_PUT_REPEATED}::test_two_begins_of_one_put_reserve_once",),
    ),
    Mutant(
        "the abort of a put that is committed drops no blocks",
        PUT,
        "filetable.abandon(put.name, put.file_id)",
        "filetable.remove(put.name, put.file_id)",
        (f"{OF_PUT_REPEATED}::test_an_abort_does_not_remove_a_file_that_its_put_has_made",),
    ),
    Mutant(
        "a commit that is repeated tells of the file as its put left it",
        PUT,
        "        entry = filetable.as_put(put.name, value, put.file_id, put.length)",
        "        entry = filetable.live(put.name, value)",
        (f"{OF_PUT_REPEATED}::test_a_commit_that_is_repeated_tells_of_the_file_as_its_put_left_it",),
    ),
    Mutant(
        "the blocks of a file come in pages that fit a frame",
        SHELL_TABLE,
        "    shown = blocks[: BLOCKS_PAGE if room is None else room] if paged else blocks",
        "    shown = blocks",
        (f"{OF_PAGES}::test_a_file_of_fifty_thousand_blocks_is_described_page_by_page",),
    ),
    Mutant(
        "all pages of blocks are of one file",
        GATEWAY,
        "        if request.file_id is not None and stat.file_id != request.file_id:",
        "        if False:",
        (f"{OF_PAGES}::test_a_page_of_blocks_is_of_the_very_file_that_was_asked_for",),
    ),
    Mutant(
        "a transfer that ended gives its place back",
        TRANSFERS,
        "            self._taken -= 1\n        part.abandon()",
        "            pass\n        part.abandon()",
        (f"{OF_TRANSFERS}::test_a_part_that_cannot_be_written_frees_the_place",),
    ),
    Mutant(
        "a piece continues its transfer exactly",
        TRANSFERS,
        "if piece.offset and part is not None and part.length == piece.offset:",
        "if piece.offset and part is not None:",
        (f"{OF_TRANSFERS}::test_a_missing_piece_ends_the_transfer",),
    ),
    Mutant(
        "a core that crashes ends the agent",
        ENGINE,
        "            self._on_crash(error)\n",
        "",
        (f"{OF_ENGINE}::test_a_defect_stops_it_and_is_reported",),
    ),
    Mutant(
        "requests do not wait for a core that crashed",
        ENGINE,
        "            self._stopping = True\n            self._on_stop()\n            self._on_crash(error)\n",
        "            self._stopping = True\n            self._on_crash(error)\n",
        (f"{OF_ENGINE}::test_a_defect_stops_it_and_is_reported",),
    ),
    Mutant(
        "the core forgets a request that has timed out",
        WAITERS,
        "            post(CallerLeft(event.key, waiter))\n",
        "",
        (f"{OF_WAITERS}::test_the_core_forgets_a_request_whose_deadline_has_passed",),
    ),
    Mutant(
        "a request waits no longer than its deadline",
        WAITERS,
        "answer = waiter.get(deadline.remaining(clock.monotonic()))",
        "answer = waiter.get(30.0)",
        (f"{OF_WAITERS}::test_a_request_waits_for_what_is_left_until_its_deadline",),
    ),
    Mutant(
        "a peer that cannot be told is reported as overloaded",
        PEERS,
        "        except (Overloaded, Unavailable):\n            return False",
        "        except (Overloaded, Unavailable):\n            return True",
        (f"{OF_PEERS}::test_a_node_that_hangs_holds_up_its_own_queue_only_and_that_is_bounded",),
    ),
    Mutant(
        "the blocks of an aborted put are dropped",
        PUT,
        "            self._peers.tell(node, DropFile(put.file_id, put.name))",
        "            pass",
        (f"{OF_PUT}::test_a_failed_block_ends_the_put_at_its_next_piece",),
    ),
    Mutant(
        "tasks can only read the store",
        SERVICE,
        "by_kind(*gateway.task_endpoints())",
        "by_kind(*gateway.endpoints())",
        (f"{OF_GATEWAY}::test_tasks_may_read_and_nothing_else",),
    ),
    Mutant(
        "a store uses its folder alone",
        SERVICE,
        "        disk.lock(descriptor)\n",
        "        pass\n",
        (f"{OF_SERVICE}::test_a_second_agent_on_the_same_folder_is_refused",),
    ),
    Mutant(
        "a put that was committed after all is no orphan",
        REPAIR,
        "filetable.abandon(name, entry.file_id)",
        "filetable.remove(name, entry.file_id)",
        (f"{OF_REPAIR}::test_a_put_that_was_committed_after_all_is_no_orphan",),
    ),
    Mutant(
        "a store enters the file table only after its copy is durable",
        REPAIR,
        "        self._copier.push(name, key, push.block, push.targets)\n",
        "",
        (f"{OF_REPAIR}::test_missing_copies_are_pushed_and_the_table_learns_of_them",),
    ),
    Mutant(
        "a node announces a copy only after it was checked",
        REPAIR,
        "if self._store.crc_of((entry.file_id, block.number), block.length) != block.crc:",
        "if False:",
        (f"{OF_REPAIR}::test_a_good_copy_that_the_table_does_not_know_is_announced_or_dropped",),
    ),
    Mutant(
        "a new disk is settled only when everything was checked",
        REPAIR,
        " or self._everything or self._missing:\n",
        " or self._missing:\n",
        (f"{OF_REPAIR}::test_a_new_disk_does_not_settle_before_all_files_were_listed",),
    ),
    Mutant(
        "a new disk is settled only when nothing is missing",
        REPAIR,
        " or self._everything or self._missing:\n",
        " or self._everything:\n",
        (f"{OF_REPAIR}::test_a_new_disk_settles_when_every_open_block_that_belongs_here_is_sealed",),
    ),
    Mutant(
        "a damaged copy is reported for repair",
        REPLICA_SHELL,
        "            self.post(BlockDropped(key))\n            if name:\n",
        "            if name:\n",
        (f"{OF_REPLICA_SHELL}::test_a_damaged_copy_is_refused_and_reported_for_repair",),
    ),
    Mutant(
        "a put whose blocks were not stored does not become visible",
        OUTGOING,
        "            if replicas and not failures:\n",
        "            if replicas:\n",
        (f"{OF_OUTGOING}::test_a_block_goes_to_other_nodes_when_a_replica_fails",),
    ),
    Mutant(
        "a put that misses bytes does not become visible",
        PUT,
        "        if length != put.length:\n",
        "        if False:\n",
        (f"{OF_PUT}::test_pieces_come_in_order_and_one_that_is_sent_twice_counts_once",),
    ),
)
