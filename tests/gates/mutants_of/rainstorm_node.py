"""Mutants of the stream engine's hosts and tasks: fencing, alignment, state, splits."""

from __future__ import annotations

from tests.gates.mutant import Mutant

HOST = "agent/rainstorm/host/core/host.py"
WRITERS = "agent/rainstorm/host/shell/writers.py"
SUPERVISOR = "agent/rainstorm/host/shell/supervisor.py"
ALIGNMENT = "agent/rainstorm/task/core/alignment.py"
PROCESSOR = "agent/rainstorm/task/core/processor.py"
READER = "agent/rainstorm/task/sources/splitreader.py"
KEYED = "agent/rainstorm/task/state/keyed.py"
LOOP = "agent/rainstorm/task/shell/loop.py"
SOURCE = "agent/rainstorm/task/shell/source.py"
BOUNDARIES = "agent/rainstorm/job/boundaries.py"
STORAGE = "agent/rainstorm/io/storage.py"
LINKS = "agent/rainstorm/io/links.py"
LAUNCHER = "agent/rainstorm/host/shell/launcher.py"
TASK = "agent/rainstorm/task/shell/task.py"
LAUNCHERLINK = "agent/rainstorm/host/shell/launcherlink.py"
LAUNCHER_MESSAGES = "agent/rainstorm/messages/launcher.py"

OF_HOST = "tests/unit/rainstorm/host/core/test_host.py"
OF_WRITERS = "tests/unit/rainstorm/host/shell/test_writers.py"
OF_SUPERVISOR = "tests/unit/rainstorm/host/shell/test_supervisor.py"
OF_ALIGNMENT = "tests/unit/rainstorm/task/core/test_alignment.py"
OF_PROCESSOR = "tests/unit/rainstorm/task/core/test_processor.py"
OF_BOUNDARIES = "tests/unit/rainstorm/job/test_boundaries.py"
OF_READER = "tests/unit/rainstorm/task/sources/test_splitreader.py"
OF_KEYED = "tests/unit/rainstorm/task/state/test_keyed.py"
OF_LOOP = "tests/unit/rainstorm/task/shell/test_loop.py"
OF_SOURCE = "tests/unit/rainstorm/task/shell/test_source.py"
OF_STORAGE = "tests/unit/rainstorm/io/test_storage.py"
OF_LINKS = "tests/unit/rainstorm/io/test_links.py"
OF_LAUNCHER = "tests/unit/rainstorm/host/shell/test_launcher.py"
OF_TASK = "tests/unit/rainstorm/task/shell/test_task.py"
OF_LAUNCHERLINK = "tests/unit/rainstorm/host/shell/test_launcherlink.py"
OF_LAUNCHER_MESSAGES = "tests/unit/rainstorm/messages/test_launcher.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a number in the launcher's name is a whole one",
        LAUNCHER_MESSAGES,
        "type(value) is not int or not",
        "not",
        (f"{OF_LAUNCHER_MESSAGES}::test_a_number_is_a_whole_one_in_its_range",),
    ),
    Mutant(
        "a text in the launcher's name can be encoded",
        LAUNCHER_MESSAGES,
        " or not value.isprintable()",
        "",
        (f"{OF_LAUNCHER_MESSAGES}::test_a_text_is_printable",),
    ),
    Mutant(
        "a packet in the launcher's name is not nested deeply",
        LAUNCHER_MESSAGES,
        "except RecursionError:",
        "except ZeroDivisionError:",
        (f"{OF_LAUNCHER_MESSAGES}::test_a_hostile_packet_is_a_value_error_or_a_message",),
    ),
    Mutant(
        "a packet that is no request ends the launcher without a traceback",
        LAUNCHER,
        "        except ValueError as error:\n            log_event",
        "        except ZeroDivisionError as error:\n            log_event",
        (f"{OF_LAUNCHER}::test_a_packet_that_is_no_request_ends_the_launcher",),
    ),
    Mutant(
        "a task that waits for the store ends epochs meanwhile",
        SOURCE,
        "            if not error.retryable or now - self._failing_since >= PATIENCE_S:",
        "            if True:",
        (f"{OF_LOOP}::test_a_task_that_waits_for_the_store_ends_epochs_meanwhile",),
    ),
    Mutant(
        "a read ends before an epoch counts as stuck",
        SOURCE,
        "ATTEMPT_S = 2.0",
        "ATTEMPT_S = 15.0",
        (f"{OF_SOURCE}::test_a_read_ends_before_an_epoch_counts_as_stuck",),
    ),
    Mutant(
        "a connection is closed only once nothing is sent through it",
        LAUNCHERLINK,
        "            self._changed.wait_for(lambda: not self._sending)\n",
        "",
        (OF_LAUNCHERLINK,),
    ),
    Mutant(
        "a task that was not sent to the launcher is taken back",
        LAUNCHERLINK,
        "            del self._tasks[number]\n        task.close_files()",
        "        task.close_files()",
        (OF_LAUNCHERLINK,),
    ),
    Mutant(
        "a command of an earlier term is ignored",
        HOST,
        "if command.term < self.term:",
        "if False:",
        (f"{OF_HOST}::test_an_old_leader_commands_nothing",),
    ),
    Mutant(
        "a snapshot of an earlier generation is ignored",
        HOST,
        "        epoch, generation = event.said.epoch, event.said.generation\n"
        "        if not self._current(event.job, generation):\n",
        "        epoch, generation = event.said.epoch, event.said.generation\n        if False:\n",
        (f"{OF_HOST}::test_words_about_unknown_jobs_are_ignored",),
    ),
    Mutant(
        "an epoch is acknowledged when all tasks of the node have handed it over",
        HOST,
        "if len(gathered) < len(job.tasks):",
        "if not gathered:",
        (f"{OF_HOST}::test_an_epoch_leaves_in_one_append_and_is_acknowledged_when_durable",),
    ),
    Mutant(
        "the first hand-over of a task counts",
        HOST,
        "        if event.task in gathered:\n",
        "        if False:\n",
        (f"{OF_HOST}::test_an_epoch_handed_over_twice_counts_once",),
    ),
    Mutant(
        "epochs that are open are bounded",
        HOST,
        "if epoch not in job.open and len(job.open) >= EPOCHS_OPEN_MAX:",
        "if False:",
        (f"{OF_HOST}::test_a_task_that_hands_over_epochs_that_nobody_asked_for_has_failed",),
    ),
    Mutant(
        "an older generation does not stop a newer one",
        HOST,
        "return self._stop(job) if self._known(job, generation) else []",
        "return self._stop(job)",
        (f"{OF_HOST}::test_a_stop_ends_tasks_but_not_those_of_a_newer_generation",),
    ),
    Mutant(
        "output of epochs that never happened is not published",
        HOST,
        "if key[0] <= committed}",
        "}",
        (f"{OF_HOST}::test_output_that_was_not_committed_is_forgotten",),
    ),
    Mutant(
        "an epoch of a sink task is published under one sequence",
        WRITERS,
        "sequence = wanted.epoch * PIECES_PER_EPOCH_MAX + number",
        "sequence = wanted.epoch * PIECES_PER_EPOCH_MAX + number + id(wanted)",
        (f"{OF_WRITERS}::test_output_is_published_once_in_pieces",),
    ),
    Mutant(
        "after a failed append segments go to a new file",
        WRITERS,
        "            self._open.pop(wanted.job, None)\n",
        "            pass\n",
        (f"{OF_WRITERS}::test_after_a_failed_append_a_new_file_is_begun",),
    ),
    Mutant(
        "a task that sends an invalid message is ended",
        SUPERVISOR,
        "        self.kill()\n        self.exited.wait(EXIT_TIMEOUT_S)\n",
        "        self.exited.wait(EXIT_TIMEOUT_S)\n",
        (f"{OF_SUPERVISOR}::test_a_process_whose_first_message_is_no_hello_ends",),
    ),
    Mutant(
        "a channel that has delivered its barrier is held back",
        ALIGNMENT,
        "return self._exactly_once and self._delivered.get(channel, 0) > self._epoch",
        "return False",
        (f"{OF_ALIGNMENT}::test_a_channel_that_is_ahead_waits",),
    ),
    Mutant(
        "an epoch has ended when all channels have delivered its barrier",
        ALIGNMENT,
        "reached = min(self._delivered.get(name, self._epoch) for name in self._channels)",
        "reached = max(self._delivered.get(name, self._epoch) for name in self._channels)",
        (f"{OF_ALIGNMENT}::test_the_input_has_ended_when_all_channels_have",),
    ),
    Mutant(
        "a source takes a bounded number of bytes into an epoch",
        PROCESSOR,
        "if self._reader is None or self._epoch_bytes >= EPOCH_BYTES_MAX:",
        "if self._reader is None:",
        (f"{OF_PROCESSOR}::test_a_source_stops_when_its_epoch_is_full",),
    ),
    Mutant(
        "a task that goes back undoes its later changes",
        PROCESSOR,
        "                operator.state.roll_back(restore.epoch)\n",
        "                pass\n",
        (f"{OF_PROCESSOR}::test_a_reset_undoes_whatever_came_after_the_commit",),
    ),
    Mutant(
        "the undo of an epoch holds the value before its first change",
        KEYED,
        "        if key not in self._open:\n",
        "        if True:\n",
        (f"{OF_KEYED}::test_a_key_that_changed_twice_has_its_value_of_before_the_first_change_again",),
    ),
    Mutant(
        "epochs are undone from the newest to the oldest",
        KEYED,
        "if number > epoch), reverse=True):",
        "if number > epoch)):",
        (f"{OF_KEYED}::test_epochs_are_undone_from_the_newest_to_the_oldest",),
    ),
    Mutant(
        "a line feed inside quotes does not end a record at a split",
        BOUNDARIES,
        "        if not parity:\n",
        "        if True:\n",
        (f"{OF_BOUNDARIES}::test_a_line_feed_inside_quotes_ends_no_record",),
    ),
    Mutant(
        "a split begins with the parity of the quotes before it",
        READER,
        "inside=self._inside.get(split.index, False)",
        "inside=False",
        (f"{OF_READER}::test_a_split_that_begins_inside_quotes_begins_with_the_record_behind_them",),
    ),
    Mutant(
        "a record is bounded",
        READER,
        "if request.size >= RECORD_BYTES_MAX:",
        "if False:",
        (f"{OF_READER}::test_the_limit_of_a_record_does_not_depend_on_the_read_size",),
    ),
    Mutant(
        "a channel of another generation is refused",
        LOOP,
        "if not current or self._core is None",
        "if self._core is None",
        (f"{OF_LOOP}::test_whoever_is_no_input_of_this_generation_is_not_listened_to",),
    ),
    Mutant(
        "an append is sent again with the same sequence until its outcome is known",
        STORAGE,
        "            except Conflict:\n                raise\n            except RainStormError as error:\n"
        "                self._give_up_or_wait(error, deadline, attempt)\n",
        "            except RainStormError:\n                raise\n",
        (f"{OF_STORAGE}::test_an_append_whose_answer_is_lost_is_made_once",),
    ),
    Mutant(
        "a node whose commands find no room counts as unreachable",
        LINKS,
        '            self._fail("its queue is full")\n',
        "            pass\n",
        (f"{OF_LINKS}::test_a_full_queue_makes_a_node_unreachable",),
    ),
    Mutant(
        "the launcher serves only the user of the agent",
        LAUNCHER,
        "        if peer == uid:\n",
        "        if True:\n",
        (f"{OF_LAUNCHER}::test_only_the_agents_user_is_served",),
    ),
    Mutant(
        "a task gets no variables that systemd sets for a service",
        LAUNCHER,
        " if name not in DROPPED_ENVIRONMENT}",
        "}",
        (f"{OF_LAUNCHER}::test_a_task_has_its_own_files_and_nothing_of_the_service",),
    ),
    Mutant(
        "processes that a task left running end with it",
        LAUNCHER,
        "        self._kill(number)\n        status",
        "        status",
        (f"{OF_LAUNCHER}::test_a_task_that_ends_is_reported_and_what_it_left_is_killed",),
    ),
    Mutant(
        "no task outlives its launcher",
        TASK,
        "    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
        (f"{OF_TASK}::test_the_process_limits_itself_and_ends_with_its_agent",),
    ),
    Mutant(
        "a task has no other open files than its own",
        LAUNCHER,
        "PACKET_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)",
        "PACKET_BYTES_MAX, room)",
        (f"{OF_LAUNCHER}::test_a_task_has_its_own_files_and_nothing_of_the_service",),
    ),
    Mutant(
        "a task is reported as ended once",
        LAUNCHERLINK,
        "task = self._tasks.pop(number, None)",
        "task = self._tasks.get(number)",
        (f"{OF_LAUNCHERLINK}::test_a_task_that_ends_is_reported_with_its_cause",),
    ),
    Mutant(
        "a launcher that sends an invalid message is disconnected",
        LAUNCHERLINK,
        '            logger.error("launcher_sent_invalid_message error=%r", error)\n'
        "            return False\n",
        '            logger.error("launcher_sent_invalid_message error=%r", error)\n',
        (f"{OF_LAUNCHERLINK}::test_a_packet_that_is_no_message_ends_the_connection",),
    ),
    Mutant(
        "output is published before the publication is reported",
        WRITERS,
        "                self._post(PublicationRefused(wanted.job, wanted.epoch, wanted.task, failure))\n"
        "            return\n",
        "                self._post(PublicationRefused(wanted.job, wanted.epoch, wanted.task, failure))\n",
        (f"{OF_WRITERS}::test_a_publication_that_can_never_succeed_is_refused",),
    ),
    Mutant(
        "the memory of a task is bounded",
        TASK,
        "    resource.setrlimit(resource.RLIMIT_DATA, (arguments.memory, arguments.memory))\n",
        "",
        (f"{OF_TASK}::test_the_process_limits_itself_and_ends_with_its_agent",),
    ),
)
