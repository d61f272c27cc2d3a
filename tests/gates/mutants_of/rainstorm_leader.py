"""Mutants of the stream engine's leader: epochs, the job log, generations, publication."""

from __future__ import annotations

from tests.gates.mutant import Mutant

EPOCHS = "agent/rainstorm/leader/core/epochs.py"
STATE = "agent/rainstorm/leader/core/joblog.py"
MACHINE = "agent/rainstorm/leader/core/jobmachine.py"
LEADER = "agent/rainstorm/leader/core/leader.py"
PUBLICATION = "agent/rainstorm/leader/core/publication.py"
SEGMENTS = "agent/rainstorm/leader/core/segments.py"
JOB_LOGS = "agent/rainstorm/leader/shell/joblog.py"
DISPATCHER = "agent/rainstorm/leader/shell/leader.py"

OF_EPOCHS = "tests/unit/rainstorm/leader/core/test_epochs.py"
OF_STATE = "tests/unit/rainstorm/leader/core/test_joblog.py"
OF_LEADER = "tests/unit/rainstorm/leader/core/test_leader.py"
OF_PUBLICATION = "tests/unit/rainstorm/leader/core/test_publication.py"
OF_SEGMENTS = "tests/unit/rainstorm/leader/core/test_segments.py"
OF_JOB_LOGS = "tests/unit/rainstorm/leader/shell/test_joblog.py"
OF_DISPATCHER = "tests/unit/rainstorm/leader/shell/test_leader.py"
OF_JOBMACHINE_ENDS = "tests/unit/rainstorm/leader/core/test_jobmachine_ends.py"
OF_JOBMACHINE = "tests/unit/rainstorm/leader/core/test_jobmachine.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "an epoch is complete when every task has acknowledged it",
        EPOCHS,
        "return len(self.acks) == len(self.tasks)",
        "return bool(self.acks)",
        (f"{OF_EPOCHS}::test_an_epoch_is_complete_when_all_tasks_have_answered",),
    ),
    Mutant(
        "a task commits positions only of its own splits",
        EPOCHS,
        'if split is None or task != f"0.{split.task}":',
        "if split is None:",
        (f"{OF_EPOCHS}::test_a_task_commits_positions_of_its_own_splits_only",),
    ),
    Mutant(
        "a position lies inside its split",
        EPOCHS,
        "if not split.start <= position <= data_end:",
        "if False:",
        (f"{OF_EPOCHS}::test_a_task_commits_positions_of_its_own_splits_only",),
    ),
    Mutant(
        "epochs of a job log count upwards",
        STATE,
        "if epoch <= state.epoch or published > epoch:",
        "if False:",
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "terms of a job log count upwards",
        STATE,
        'return f"term {term} after term {state.term}" if term < state.term else ""',
        'return ""',
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "an epoch number is never used twice",
        STATE,
        "self.epoch_max = max(self.epoch_max, record.epoch_max)",
        "self.epoch_max = record.epoch_max",
        (f"{OF_STATE}::test_epoch_numbers_only_grow",),
    ),
    Mutant(
        "an acknowledgement of an earlier generation does not count",
        MACHINE,
        "if epoch is None or report.generation != epoch.generation or report.epoch != epoch.number:",
        "if epoch is None or report.epoch != epoch.number:",
        (f"{OF_JOBMACHINE_ENDS}::test_zombies_change_nothing",),
    ),
    Mutant(
        "an acknowledgement of another epoch does not count",
        MACHINE,
        "if epoch is None or report.generation != epoch.generation or report.epoch != epoch.number:",
        "if epoch is None or report.generation != epoch.generation:",
        (f"{OF_JOBMACHINE_ENDS}::test_zombies_change_nothing",),
    ),
    Mutant(
        "an epoch is committed once",
        MACHINE,
        'if self.phase != "running" or epoch.committing:',
        'if self.phase != "running":',
        (f"{OF_JOBMACHINE}::test_an_epoch_that_is_being_committed_takes_no_further_acknowledgement",),
    ),
    Mutant(
        "tasks start when all nodes are ready",
        MACHINE,
        "if any(node not in self._prepared for node in self._nodes_in_use()):",
        "if False:",
        (f"{OF_JOBMACHINE}::test_no_task_starts_before_all_are_prepared",),
    ),
    Mutant(
        "a report of an earlier generation that a task is ready does not count",
        MACHINE,
        'if self.phase != "deploying" or report.generation != self.state.generation:',
        'if self.phase != "deploying":',
        (f"{OF_JOBMACHINE}::test_tasks_that_were_ready_in_the_generation_before_start_nothing",),
    ),
    Mutant(
        "a job that makes no progress finally fails",
        MACHINE,
        "if self._fruitless > FRUITLESS_RECOVERIES_MAX:",
        "if False:",
        (f"{OF_JOBMACHINE_ENDS}::test_recoveries_without_progress_end_the_job",),
    ),
    Mutant(
        "a job ends when its output is published",
        MACHINE,
        'if self._pending[0] == "commit" or not self._publication.done:',
        'if self._pending[0] == "commit":',
        (f"{OF_JOBMACHINE_ENDS}::test_a_job_that_is_over_cannot_be_cancelled",),
    ),
    Mutant(
        "a new leader uses no epoch number that its predecessor may have used",
        MACHINE,
        "self.state.epoch_max += 1 if self.state.generation else 0",
        "pass",
        (f"{OF_JOBMACHINE}::test_epoch_numbers_are_never_used_twice",),
    ),
    Mutant(
        "an epoch that does not end is a failure",
        MACHINE,
        "if epoch.committing or now < epoch.triggered_at + self._epoch_timeout_s():",
        "if True:",
        (f"{OF_JOBMACHINE_ENDS}::test_a_stuck_epoch_names_who_is_missing",),
    ),
    Mutant(
        "a slow destination slows the sources down",
        MACHINE,
        "        if self._publication.backlog():\n            return []",
        "        if False:\n            return []",
        (f"{OF_JOBMACHINE}::test_a_slow_destination_slows_the_sources_down",),
    ),
    Mutant(
        "a take-over of an earlier term is ignored",
        LEADER,
        "if term != self.term or not self.taking_over:",
        "if not self.taking_over:",
        (f"{OF_LEADER}::test_a_take_over_of_another_term_is_ignored",),
    ),
    Mutant(
        "a leader that is replaced steps down",
        LEADER,
        "        if view.leader != self.name:\n            return self._step_down()\n",
        "        if view.leader != self.name:\n            return []\n",
        (f"{OF_LEADER}::test_a_zombie_leader_appends_nothing_more",),
    ),
    Mutant(
        "an older view changes nothing",
        LEADER,
        "if view.version <= self.view.version:",
        "if False:",
        (f"{OF_LEADER}::test_an_older_view_changes_nothing",),
    ),
    Mutant(
        "a leader whose append is refused stops leading",
        LEADER,
        "            case LogRejected():\n                return self._start_over()\n",
        "            case LogRejected():\n                return []\n",
        (f"{OF_JOBMACHINE_ENDS}::test_a_rejected_append_deposes_the_leader",),
    ),
    Mutant(
        "one epoch of a sink task is published at a time",
        PUBLICATION,
        "if task in busy or not nodes:",
        "if not nodes:",
        (f"{OF_PUBLICATION}::test_one_epoch_of_a_sink_task_is_under_way_at_a_time",),
    ),
    Mutant(
        "published means that all earlier epochs are published too",
        PUBLICATION,
        "state.published = max(state.published, first_left - 1)",
        "state.published = max(state.published, epoch)",
        (f"{OF_PUBLICATION}::test_published_means_all_sink_tasks",),
    ),
    Mutant(
        "output that is not confirmed in time is published again",
        PUBLICATION,
        "if now - told[1] <= PUBLISH_TIMEOUT_S}",
        "}",
        (f"{OF_PUBLICATION}::test_what_is_late_is_given_out_again",),
    ),
    Mutant(
        "a segment file is kept while the log may still need it",
        SEGMENTS,
        "for _, _, references in (*state.unpublished, *confirmed):",
        "for _, _, references in state.unpublished:",
        (f"{OF_SEGMENTS}::test_output_that_only_the_log_calls_unpublished_keeps_its_file",),
    ),
    Mutant(
        "a job log that belongs to a later term is not taken over",
        JOB_LOGS,
        "if _newest_term(data) > self._term:",
        "if False:",
        (f"{OF_JOB_LOGS}::test_a_leader_of_an_older_term_takes_nothing_over",),
    ),
    Mutant(
        "a leader appends only where it knows the log to end",
        JOB_LOGS,
        "file, data, self._writer, sequence + 1, if_offset=length,",
        "file, data, self._writer, sequence + 1, if_offset=None,",
        (f"{OF_JOB_LOGS}::test_a_leader_that_was_replaced_writes_nothing_more",),
    ),
    Mutant(
        "after an append with an unknown outcome the log is taken over again",
        JOB_LOGS,
        "length, sequence = self._files.pop(file)",
        "length, sequence = self._files[file]",
        (f"{OF_JOB_LOGS}::test_after_a_failed_append_nothing_more_is_sent",),
    ),
    Mutant(
        "a log thread that dies ends the agent",
        DISPATCHER,
        "    def _log_failed(self, error: Exception) -> bool:\n        self._on_crash(error)\n",
        "    def _log_failed(self, error: Exception) -> bool:\n",
        (f"{OF_DISPATCHER}::test_an_exception_in_the_log_thread_ends_the_agent",),
    ),
    Mutant(
        "work that waits for the log when a leader steps down is dropped",
        DISPATCHER,
        "                self._log_thread.clear()  # the waiting work belongs to a term that has ended\n",
        "",
        (f"{OF_DISPATCHER}::test_a_full_log_queue_costs_the_leadership_not_the_core",),
    ),
    Mutant(
        "a report goes to the node that leads",
        DISPATCHER,
        "        if not self._core.leading:\n"
        "            raise self._not_leader()\n"
        "        self._runner.post(ReportReceived(node, report))",
        "        self._runner.post(ReportReceived(node, report))",
        (f"{OF_DISPATCHER}::test_a_node_that_does_not_lead_says_who_does",),
    ),
    Mutant(
        "the output file of a job that never began is removed",
        DISPATCHER,
        "        except (Conflict, Fenced):\n            self._remove_sink(state)",
        "        except (Conflict, Fenced):\n            pass",
        (f"{OF_DISPATCHER}::test_a_job_whose_first_append_fails_makes_the_leader_take_over_again",),
    ),
    Mutant(
        "a generation of a job log counts upwards",
        STATE,
        "            if generation <= state.generation:\n",
        "            if False:\n",
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "every task of a generation is placed",
        STATE,
        "            if len(placement) != len(tasks):\n",
        "            if False:\n",
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "a record names no other tasks than those of the job",
        STATE,
        '    return f"the job has no task {unknown[0]}" if unknown else ""',
        '    return ""',
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "a commit names no other splits than those of the job",
        STATE,
        "            if any(split not in splits for split in positions):\n",
        "            if False:\n",
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "a job log begins with its job",
        STATE,
        "if not isinstance(record, JobRecord) or record.job != job:",
        "if not isinstance(record, JobRecord):",
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
    Mutant(
        "a job log holds its job once",
        STATE,
        '            return "the job is already there"\n',
        '            return ""\n',
        (f"{OF_STATE}::test_records_that_contradict_each_other_are_refused",),
    ),
)
