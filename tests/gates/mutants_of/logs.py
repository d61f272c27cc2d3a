"""Mutants of the collection of logs and of searches."""

from __future__ import annotations

from tests.gates.mutant import Mutant

COLLECTOR = "agent/logs/core/collector.py"
IDENTITY = "agent/logs/core/identity.py"
POSITION = "agent/logs/core/position.py"
QUERY = "agent/logs/core/query.py"
SPOOL = "agent/logs/shell/spool.py"
COLLECTION = "agent/logs/shell/collector.py"
SOURCES = "agent/logs/shell/sources.py"
SEARCHES = "agent/logs/shell/searches.py"
RETENTION = "agent/logs/shell/retention.py"
SEARCH = "agent/logs/shell/search.py"

OF_COLLECTOR = "tests/unit/logs/core/test_collector.py"
OF_IDENTITY = "tests/unit/logs/core/test_identity.py"
OF_QUERY = "tests/unit/logs/core/test_query.py"
OF_SPOOL = "tests/unit/logs/shell/test_spool.py"
OF_COLLECTION = "tests/unit/logs/shell/test_collector.py"
OF_SOURCES = "tests/unit/logs/shell/test_sources.py"
OF_SEARCHES = "tests/unit/logs/shell/test_searches.py"
OF_RETENTION = "tests/unit/logs/shell/test_retention.py"
OF_SEARCH = "tests/unit/logs/shell/test_search.py"
RED = "::test_every_line_is_collected_once_in_schedules_that_were_red"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a position holds only in the file whose beginning it knows",
        POSITION,
        "return zlib.crc32(head[: self.head_bytes]) == self.head_crc",
        "return True",
        (f"{OF_COLLECTOR}::test_a_used_inode_is_another_file",),
    ),
    Mutant(
        "half a line waits until its file is complete",
        COLLECTOR,
        "return not seen.live and end >= seen.size and (seen.packed or still_for_s >= SETTLE_S)",
        "return True",
        (f"{OF_COLLECTOR}::test_half_a_line_waits_until_its_file_is_done",),
    ),
    Mutant(
        "a collected file is bounded",
        COLLECTOR,
        "if target.day != self._day or target.size + size > self._target_bytes_max:",
        "if target.day != self._day:",
        (f"{OF_COLLECTOR}::test_targets_are_bounded_and_start_over_each_day",),
    ),
    Mutant(
        "a number of a file is never used twice",
        COLLECTOR,
        "self._next_number = max(self._next_number, position.number + 1)",
        "pass",
        (f"{OF_COLLECTOR}::test_the_journal_goes_on_behind_its_cursor_after_a_crash",),
    ),
    Mutant(
        "a chunk is taken once",
        COLLECTOR,
        "or (position.key, position.offset) != (event.key, event.offset):",
        "or False:",
        (f"{OF_COLLECTOR}::test_a_chunk_that_was_taken_is_not_taken_again",),
    ),
    Mutant(
        "a packed file waits for the plain one, whatever inode is remembered",
        IDENTITY,
        "            if not seen.packed:\n",
        "            if True:\n",
        (f"{OF_IDENTITY}::test_a_plain_file_goes_before_a_packed_one_whatever_inode_is_remembered",),
    ),
    Mutant(
        "a plain file is read before its packed copy",
        IDENTITY,
        "key=lambda each: (-each.size, each.packed)",
        "key=lambda each: (-each.size, not each.packed)",
        (f"{OF_IDENTITY}::test_a_copy_is_read_only_when_its_original_is_gone",),
    ),
    Mutant(
        "a copy of a file that still exists is not read",
        IDENTITY,
        "        if seen.live:\n            return []\n",
        "        if True:\n            return []\n",
        (f"{OF_IDENTITY}::test_a_copy_is_read_only_when_its_original_is_gone", f"{OF_COLLECTOR}{RED}[0/3]"),
    ),
    Mutant(
        "a copy that is shorter than what was read is not read",
        IDENTITY,
        "            self._shorter.add(seen.key)\n",
        "            pass\n",
        (f"{OF_IDENTITY}::test_a_copy_that_is_not_finished_is_not_read", f"{OF_COLLECTOR}{RED}[0/1]"),
    ),
    Mutant(
        "what was read behind a copy is not read again from it",
        IDENTITY,
        "self._found[key] = self._found[key].shortened_to(seen)",
        "pass",
        (
            f"{OF_IDENTITY}::test_what_was_read_behind_a_short_copy_is_found_in_it",
            f"{OF_COLLECTOR}{RED}[0/1]",
        ),
    ),
    Mutant(
        "a beginning that is too short does not make a copy of a file",
        IDENTITY,
        "and each.tells_apart and each.begins_like(seen.head)",
        "and each.begins_like(seen.head)",
        (f"{OF_COLLECTOR}{RED}[2/19]",),
    ),
    Mutant(
        "the number of a device may change",
        IDENTITY,
        "            and each.continues_in(seen)\n            and (each.tells_apart or",
        "            and each.continues_in(seen)\n            and each.key == seen.key\n"
        "            and (each.tells_apart or",
        (f"{OF_IDENTITY}::test_a_device_that_has_another_number_after_a_start_changes_nothing",),
    ),
    Mutant(
        "a chunk counts only if the file was not truncated before the read",
        COLLECTOR,
        "if waits or not position.begins_like(event.head):",
        "if waits:",
        (f"{OF_COLLECTOR}::test_a_chunk_of_a_file_that_was_truncated_after_the_scan_is_dropped",),
    ),
    Mutant(
        "nothing gets into the middle of a line",
        COLLECTOR,
        "if waits or not position.begins_like(event.head):",
        "if not position.begins_like(event.head):",
        (f"{OF_COLLECTOR}::test_nothing_gets_into_the_middle_of_a_line", f"{OF_COLLECTOR}{RED}[5/1]"),
    ),
    Mutant(
        "that a line lacks its end outlives a crash",
        COLLECTOR,
        "            dict(self._torn),\n",
        "            {},\n",
        (f"{OF_COLLECTOR}::test_nothing_gets_into_the_middle_of_a_line",),
    ),
    Mutant(
        "a line whose end never comes is ended before the next",
        COLLECTOR,
        'else b"\\n" + data',
        "else data",
        (f"{OF_COLLECTOR}::test_a_line_whose_end_never_comes_is_ended_before_the_next",),
    ),
    Mutant(
        "nothing is stored before a record for which there was no room",
        COLLECTION,
        "            if not self._full:\n                self._carry_out(effect)",
        "            if True:\n                self._carry_out(effect)",
        (f"{OF_COLLECTION}::test_a_record_that_cannot_be_stored_keeps_its_place",),
    ),
    Mutant(
        "the limits of the agent bound those of the caller",
        QUERY,
        "output_bytes_max=min(int(wanted_bytes or output_bytes_max), output_bytes_max),",
        "output_bytes_max=int(wanted_bytes or output_bytes_max),",
        (f"{OF_QUERY}::test_the_limits_of_the_agent_bound_those_of_the_caller",),
    ),
    Mutant(
        "a segment of the spool goes only when its records have arrived",
        SPOOL,
        "self._segments.drop_before(self._unsent[0].segment if self._unsent else self._segments.numbers[-1])",
        "self._segments.drop_before(self._segments.numbers[-1])",
        (f"{OF_SPOOL}::test_a_note_that_cannot_be_written_means_that_the_record_is_sent_again",),
    ),
    Mutant(
        "the names of writers change when the spool was lost",
        SPOOL,
        "made = threads.unique_id()[:12]",
        'made = "0" * 12',
        (f"{OF_SPOOL}::test_a_spool_in_a_new_folder_has_another_name",),
    ),
    Mutant(
        "the spool is bounded",
        COLLECTION,
        "if self._spool.size_bytes + len(record.data) > self._knobs.spool_bytes:",
        "if False:",
        (f"{OF_COLLECTION}::test_without_hydfs_the_spool_fills_and_then_the_files_wait",),
    ),
    Mutant(
        "a link in the log folder is not followed",
        SOURCES,
        "os.O_RDONLY | os.O_NOFOLLOW |",
        "os.O_RDONLY |",
        (f"{OF_SOURCES}::test_files_come_log_by_log_the_oldest_first_and_nothing_else",),
    ),
    Mutant(
        "a name that belongs to another file by now is not read",
        SOURCES,
        "if (status.st_dev, status.st_ino) != file.key:",
        "if False:",
        (f"{OF_SOURCES}::test_a_file_whose_name_belongs_to_another_one_by_now_is_not_read",),
    ),
    Mutant(
        "searches in progress are bounded",
        SEARCHES,
        "if len(self._searches) - len(ended[-ENDED_MAX:]) >= SEARCHES_MAX:",
        "if False:",
        (f"{OF_SEARCHES}::test_the_number_of_searches_is_bounded",),
    ),
    Mutant(
        "the newest file of each collected log stays",
        RETENTION,
        "if stat.name in newest.values() or (is_recent",
        "if (is_recent",
        (f"{OF_RETENTION}::test_old_files_go_unless_they_are_the_newest_of_their_log",),
    ),
    Mutant(
        "a record is synced before it counts",
        SPOOL,
        "self._segments.append([body])",
        "self._segments.append([body], sync=False)",
        (f"{OF_SPOOL}::test_a_spool_that_failed_is_opened_again_and_says_what_it_has",),
    ),
    Mutant(
        "the state of the collector is checked",
        SPOOL,
        'restore(message.decode(CollectorState, _value(body), "state of the collector"))',
        "restore(_value(body))",
        (f"{OF_SPOOL}::test_a_full_disk_refuses_records_and_keeps_those_before",),
    ),
    Mutant(
        "a bad record of the spool does not keep the others",
        SPOOL,
        "            except InvalidMessage as error:\n                # The lines",
        "            except KeyError as error:\n                # The lines",
        (f"{OF_SPOOL}::test_a_record_that_is_none_is_refused_by_name_and_the_others_are_sent",),
    ),
    Mutant(
        "input that a grep never got is discarded",
        SEARCH,
        "        except BaseException:\n            entered.discard()\n            raise\n        finally:",
        "        except BaseException:\n            raise\n        finally:",
        (f"{OF_SEARCH}::test_a_grep_that_cannot_be_started_leaks_nothing",),
    ),
    Mutant(
        "the memory of a grep is limited",
        SEARCH,
        "            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (limit, limit))\n",
        "",
        (f"{OF_SEARCH}::test_a_line_that_needs_too_much_memory_ends_its_grep",),
    ),
    Mutant(
        "a search ends at its time limit",
        SEARCH,
        "if self._deadline.expired(clock.monotonic()):",
        "if False:",
        (f"{OF_SEARCH}::test_a_search_ends_at_its_time_limit",),
    ),
    Mutant(
        "the output of a search is bounded",
        SEARCH,
        "        cut = len(data) > room\n",
        "        cut = False\n",
        (f"{OF_SEARCH}::test_output_beyond_the_limit_is_cut_at_a_line",),
    ),
    Mutant(
        "a record that was not appended stays in the spool",
        COLLECTION,
        "                self._append(record, spool.identity)\n"
        "            except RainStormError as error:\n"
        "                self._note_trouble(about, _text(error))\n"
        "                self._stopping.wait(pause_s)\n"
        "                pause_s = min(2 * pause_s, RETRY_S[1])\n"
        "                continue\n",
        "                self._append(record, spool.identity)\n"
        "            except RainStormError as error:\n"
        "                self._note_trouble(about, _text(error))\n",
        (f"{OF_COLLECTION}::test_a_store_that_fails_is_named_and_tried_again",),
    ),
)
