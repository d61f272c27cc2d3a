"""Mutants of the parts that all agents share: registers, framed logs, durable files, worker threads."""

from __future__ import annotations

from tests.gates.mutant import Mutant

MAIN = "agent/__main__.py"
MESSAGE = "agent/common/message.py"
REGISTER = "agent/common/register.py"
MEMORY = "agent/common/votermemory.py"
LOG_FORMAT = "agent/common/framedlog.py"
LOG = "agent/common/shell/framedlog.py"
SEGMENTS = "agent/common/shell/segments.py"
DISK = "agent/common/shell/disk.py"
WORKER = "agent/common/shell/worker.py"
POOL = "agent/common/shell/pool.py"
RUNNER = "agent/common/shell/runner.py"
REALNETWORK = "agent/common/shell/realnetwork.py"
THREADS = "agent/common/shell/threads.py"
SDNOTIFY = "agent/common/shell/sdnotify.py"

OF_MAIN = "tests/unit/test_main.py"
OF_MESSAGE = "tests/unit/common/test_message.py"
OF_REGISTER = "tests/unit/common/test_register.py"
OF_VOTERS = "tests/unit/common/test_register_voters.py"
OF_MEMORY = "tests/unit/common/test_votermemory.py"
OF_LOG_FORMAT = "tests/unit/common/test_framedlog.py"
OF_LOG = "tests/unit/common/shell/test_framedlog.py"
OF_LOG_CRASHES = "tests/unit/common/shell/test_framedlog_crashes.py"
OF_SEGMENTS = "tests/unit/common/shell/test_segments.py"
OF_WORKER = "tests/unit/common/shell/test_worker.py"
OF_POOL = "tests/unit/common/shell/test_pool.py"
OF_RUNNER = "tests/unit/common/shell/test_runner.py"
OF_JOURNAL = "tests/unit/hydfs/shell/test_journal.py"
OF_DISK = "tests/unit/common/shell/test_disk.py"
OF_DISK_CRASHES = "tests/unit/common/shell/test_disk_crashes.py"
OF_AUTH = "tests/unit/wire/test_auth.py"
OF_SERVER = "tests/unit/wire/test_server.py"
OF_THREADS = "tests/unit/common/shell/test_threads.py"
OF_SDNOTIFY = "tests/unit/common/shell/test_sdnotify.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a voter promises no ballot twice, nor one below its promise",
        REGISTER,
        "if ballot <= slot.promised:",
        "if ballot < slot.promised:",
        (f"{OF_REGISTER}::test_a_voter_promises_no_ballot_twice",),
    ),
    Mutant(
        "a voter accepts nothing below its promise",
        REGISTER,
        "if ballot < slot.promised:",
        "if False:",
        (f"{OF_REGISTER}::test_a_voter_accepts_nothing_below_its_promise",),
    ),
    Mutant(
        "a proposal continues from the newest accepted value",
        REGISTER,
        "newest = max(self._answers.values(), key=lambda found: found.accepted)",
        "newest = min(self._answers.values(), key=lambda found: found.accepted)",
        (f"{OF_REGISTER}::test_a_proposal_continues_from_the_newest_accepted_value",),
    ),
    Mutant(
        "two majorities have a voter in common",
        REGISTER,
        "return len(voters) // 2 + 1",
        "return max(1, len(voters) // 2)",
        (f"{OF_REGISTER}::test_a_proposal_needs_a_majority_in_each_phase",),
    ),
    Mutant(
        "an answer to an earlier ballot does not count",
        REGISTER,
        'if event.attempt != self._attempt or self._phase == "done":',
        'if self._phase == "done":',
        (f"{OF_REGISTER}::test_a_late_answer_to_an_earlier_phase_does_not_count",),
    ),
    Mutant(
        "a refused change has the value that it saw accepted first",
        REGISTER,
        "self._value, self._error = newest.value, error",
        "return self._done(Finished(newest.value, error))",
        (f"{OF_REGISTER}::test_a_refusal_rests_on_a_value_that_a_majority_holds",),
    ),
    Mutant(
        "a read without a round rests on a majority",
        REGISTER,
        "return newest if same >= majority(voters) else None",
        "return newest",
        (f"{OF_REGISTER}::test_settled_needs_a_majority_of_the_newest",),
    ),
    Mutant(
        "a new value is accepted by the voters that it names",
        REGISTER,
        "if not set(needed) <= set(self._groups):",
        "if False:",
        (f"{OF_VOTERS}::test_a_replacement_is_accepted_by_the_old_voters_and_by_the_new_ones",),
    ),
    Mutant(
        "only the disk that founded the cluster may vote without learning",
        MEMORY,
        "if founders.get(name) == disk:",
        "if name in founders:",
        (f"{OF_MEMORY}::test_a_voter_without_memory",),
    ),
    Mutant(
        "a cluster is founded by at least a majority",
        MEMORY,
        "(len(blank) >= majority(voters) and not patient)",
        "not patient",
        (f"{OF_MEMORY}::test_a_voter_without_memory",),
    ),
    Mutant(
        "a record with another checksum is not good",
        LOG_FORMAT,
        "return len(body) == self.body_bytes(header) > 0 and zlib.crc32(body) == HEADER.unpack(header)[1]",
        "return len(body) == self.body_bytes(header) > 0",
        (f"{OF_LOG_FORMAT}::test_a_tail_is_torn_at_every_length",),
    ),
    Mutant(
        "a bad record before a good one is damage, not a torn tail",
        LOG_FORMAT,
        "    if found is not None:\n",
        "    if False:\n",
        (f"{OF_LOG_FORMAT}::test_a_flipped_bit_before_a_good_record_is_damage",),
    ),
    Mutant(
        "the search behind a bad record is bounded",
        LOG_FORMAT,
        "if checked > search_bytes_max or _record",
        "if _record",
        (f"{OF_LOG_FORMAT}::test_a_search_that_would_take_too_long_counts_as_damage",),
    ),
    Mutant(
        "a record that was appended to a log is synced before it counts",
        LOG,
        "disk.fdatasync(self._descriptor)\n        except OSError as error:\n"
        '            raise self._broken("synced", error) from error',
        'pass\n        except OSError as error:\n            raise self._broken("synced", error) from error',
        (f"{OF_LOG}::test_a_sync_without_room_is_a_failure_and_no_refusal",),
    ),
    Mutant(
        "the name of a new log is durable before its first record",
        LOG,
        'disk.sync_folder(os.path.dirname(self.path) or ".")',
        "pass",
        (f"{OF_LOG}::test_a_log_goes_on_after_it_refused_records",),
    ),
    Mutant(
        "a log that was opened has all of its records on stable storage",
        LOG,
        "                self._write_anew(crc)\n",
        "                disk.fsync(self._descriptor)\n",
        (f"{OF_LOG_CRASHES}::test_data_that_a_failed_sync_left_in_memory_is_rewritten",),
    ),
    Mutant(
        "a log that is opened on a full disk is written over itself",
        LOG,
        "                disk.pwrite_fully(self._descriptor, piece, offset)\n",
        "",
        (f"{OF_LOG_CRASHES}::test_data_that_a_failed_sync_left_in_memory_is_rewritten",),
    ),
    Mutant(
        "a log that was written over itself is synced",
        LOG,
        "            disk.fsync(self._descriptor)\n",
        "",
        (f"{OF_LOG_CRASHES}::test_data_that_a_failed_sync_left_in_memory_is_rewritten",),
    ),
    Mutant(
        "a log is rewritten as it was read",
        LOG,
        "(offset == self.size and found != crc)",
        "False",
        (f"{OF_LOG}::test_a_log_that_changes_while_it_is_opened_is_a_failure",),
    ),
    Mutant(
        "after a failed sync a log cannot be used any more",
        LOG,
        "self._failed = True",
        "pass",
        (f"{OF_LOG}::test_a_log_that_cannot_be_opened_again_ends_its_use",),
    ),
    Mutant(
        "a refused record is removed before the refusal is reported",
        LOG,
        "        try:\n            disk.ftruncate(self._descriptor, self.size)\n",
        "        try:\n",
        (f"{OF_LOG}::test_a_refused_write_that_cannot_be_taken_back_is_a_failure",),
    ),
    Mutant(
        "a torn tail is noted before it is cut off",
        LOG,
        "                before_cut()\n",
        "                pass\n",
        (f"{OF_JOURNAL}::test_a_doubt_for_which_there_is_no_room_is_not_forgotten",),
    ),
    Mutant(
        "a segment is synced before the next one begins",
        SEGMENTS,
        "        before.sync()\n",
        "",
        (f"{OF_SEGMENTS}::test_a_roll_that_fails_half_way_ends_the_use_of_both_segments",),
    ),
    Mutant(
        "a bad record in an older segment is damage",
        SEGMENTS,
        "        if end < size:\n",
        "        if False:\n",
        (f"{OF_SEGMENTS}::test_a_torn_tail_of_an_older_segment_is_damage",),
    ),
    Mutant(
        "a file is synced before it takes its name",
        DISK,
        "        fsync(descriptor)\n    return written",
        "    return written",
        (f"{OF_DISK}::test_what_is_done_to_the_medium",),
    ),
    Mutant(
        "the folder is synced after a file was replaced",
        DISK,
        "        raise\n    _confirm(path)\n",
        "        raise\n",
        (f"{OF_DISK}::test_what_is_done_to_the_medium",),
    ),
    Mutant(
        "the folder is synced after a rename",
        DISK,
        "    rename(source, target)\n    _confirm(target)\n",
        "    rename(source, target)\n",
        (f"{OF_DISK_CRASHES}::test_removals_and_renames_survive",),
    ),
    Mutant(
        "the folder is synced after a removal",
        DISK,
        "    unlink(path, missing_ok=True)\n    sync_folder(_folder(path))\n",
        "    unlink(path, missing_ok=True)\n",
        (f"{OF_DISK_CRASHES}::test_a_removed_mark_does_not_come_back",),
    ),
    Mutant(
        "the folder above a new folder is synced",
        DISK,
        "            mkdir(folder, mode)\n        sync_folder(_folder(folder))\n",
        "            mkdir(folder, mode)\n",
        (f"{OF_DISK_CRASHES}::test_after_a_failed_sync_of_the_folder_nobody_knows",),
    ),
    Mutant(
        "a queue takes no more than its bound",
        WORKER,
        "            if self._closed or len(self._items) >= self._capacity:\n                return False",
        "            if self._closed:\n                return False",
        (f"{OF_WORKER}::test_full_queue",),
    ),
    Mutant(
        "a worker whose thread has died takes no more items",
        WORKER,
        "            with self._lock:\n                self._close()\n            self.clear()",
        "            self.clear()",
        (f"{OF_WORKER}::test_error_ends_the_worker_and_is_reported",),
    ),
    Mutant(
        "items that a dead thread leaves behind are dropped, not forgotten",
        WORKER,
        "                self._close()\n            self.clear()\n",
        "                self._close()\n",
        (f"{OF_WORKER}::test_error_ends_the_worker_and_is_reported",),
    ),
    Mutant(
        "the future of a call that raised is resolved",
        POOL,
        "call.future.set_exception(error)",
        "pass",
        (f"{OF_POOL}::test_runs_calls_side_by_side",),
    ),
    Mutant(
        "a core that crashes is reported",
        RUNNER,
        "            self._on_crash(error)\n",
        "",
        (f"{OF_RUNNER}::test_a_crash_of_the_core_is_reported",),
    ),
    Mutant(
        "a counter of a message is not negative",
        MESSAGE,
        "Counter = Annotated[int, Meta(ge=0, le=COUNTER_MAX)]",
        "Counter = Annotated[int, Meta(le=COUNTER_MAX)]",
        (f"{OF_MESSAGE}::test_what_breaks_a_rule_is_refused_by_name",),
    ),
    Mutant(
        "a number of a message is finite",
        MESSAGE,
        "Number = Annotated[float, Meta(ge=-1e300, le=1e300)]",
        "Number = float",
        (f"{OF_MESSAGE}::test_what_breaks_a_rule_is_refused_by_name",),
    ),
    Mutant(
        "a name in a message is bounded",
        MESSAGE,
        "Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]",
        "Name = Annotated[str, Meta(min_length=1)]",
        (f"{OF_MESSAGE}::test_what_breaks_a_rule_is_refused_by_name",),
    ),
    Mutant(
        "a thread that dies ends the agent",
        MAIN,
        "    threads.on_death(on_death)\n",
        "",
        (f"{OF_MAIN}::test_a_thread_that_dies_ends_the_agent_with_a_status_and_a_line",),
    ),
    Mutant(
        "a crash that a service reports ends the agent",
        MAIN,
        "        crashes.append(repr(error))\n        ended.set()\n",
        "        crashes.append(repr(error))\n",
        (f"{OF_MAIN}::test_a_crash_that_the_service_reports_ends_the_agent",),
    ),
    Mutant(
        "connections are TLS 1.3",
        REALNETWORK,
        "        context.minimum_version = ssl.TLSVersion.TLSv1_3\n",
        "",
        (f"{OF_AUTH}::test_both_sides_ask_for_a_certificate_and_tls_1_3",),
    ),
    Mutant(
        "a Unix socket is protected by its permissions",
        REALNETWORK,
        "            os.chmod(path, mode)\n",
        "",
        (f"{OF_SERVER}::test_the_unix_socket_is_for_the_user_and_the_group_of_the_agent",),
    ),
    Mutant(
        "a thread that dies is noted",
        THREADS,
        "            self._deaths.note(self.name, error)\n",
        "",
        (f"{OF_THREADS}::test_no_thread_dies_silently",),
    ),
    Mutant(
        "a death without a hook is passed on",
        THREADS,
        "            if self._deaths.hook is None:\n                raise\n",
        "",
        (f"{OF_THREADS}::test_without_a_hook_the_exception_goes_on",),
    ),
    Mutant(
        "a process is alive only while its loops make progress",
        SDNOTIFY,
        "            if stalled:\n",
        "            if False:\n",
        (f"{OF_SDNOTIFY}::test_a_stalled_core_stops_the_keep_alive_messages_until_it_goes_on",),
    ),
    Mutant(
        "a child cannot speak for its agent",
        SDNOTIFY,
        'environment.pop("NOTIFY_SOCKET", "")',
        'environment.get("NOTIFY_SOCKET", "")',
        (f"{OF_SDNOTIFY}::test_the_variables_are_taken_out_of_the_environment",),
    ),
    Mutant(
        "a loop that stalls makes no progress",
        RUNNER,
        "return probe.answered.is_set() or self.progress != before",
        "return True",
        (f"{OF_SDNOTIFY}::test_a_full_inbox_that_moves_is_not_stalled",),
    ),
    Mutant(
        "waiting submitters are woken when there is room",
        WORKER,
        "            self._emptied.notify(len(items))\n",
        "",
        (f"{OF_WORKER}::test_full_queue",),
    ),
    Mutant(
        "a pool starts a thread when all are busy",
        WORKER,
        "if self._started and len(self._items) >= self._idle:",
        "if self._started and not self._threads:",
        (f"{OF_POOL}::test_adds_a_thread_when_the_idle_one_is_spoken_for",),
    ),
)
