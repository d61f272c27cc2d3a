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

OF_EPOCHS = ("tests/unit/rainstorm/leader/core/test_epochs.py",)
OF_STATE = ("tests/unit/rainstorm/leader/core/test_joblog.py",)
OF_MACHINE = (
    "tests/unit/rainstorm/leader/core/test_jobmachine.py",
    "tests/unit/rainstorm/leader/core/test_jobmachine_ends.py",
)
OF_LEADER = ("tests/unit/rainstorm/leader/core/test_leader.py",)
OF_PUBLICATION = ("tests/unit/rainstorm/leader/core/test_publication.py",)
OF_SEGMENTS = ("tests/unit/rainstorm/leader/core/test_segments.py",)
OF_JOB_LOGS = ("tests/unit/rainstorm/leader/shell/test_joblog.py",)
OF_DISPATCHER = ("tests/unit/rainstorm/leader/shell/test_leader.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "an epoch is complete when every task has acknowledged it",
        EPOCHS,
        "return len(self.acks) == len(self.tasks)",
        "return bool(self.acks)",
        (*OF_EPOCHS, *OF_MACHINE),
    ),
    Mutant(
        "a task commits positions of its own splits only",
        EPOCHS,
        'if split is None or task != f"0.{split.task}":',
        "if split is None:",
        (*OF_EPOCHS, *OF_MACHINE),
    ),
    Mutant(
        "a position lies inside its split",
        EPOCHS,
        "if not split.start <= position <= data_end:",
        "if False:",
        (*OF_EPOCHS, *OF_MACHINE),
    ),
    Mutant(
        "epochs of a job log count upwards",
        STATE,
        "if epoch <= state.epoch or published > epoch:",
        "if False:",
        OF_STATE,
    ),
    Mutant(
        "terms of a job log count upwards",
        STATE,
        'return f"term {term} after term {state.term}" if term < state.term else ""',
        'return ""',
        OF_STATE,
    ),
    Mutant(
        "an epoch number is never used twice",
        STATE,
        "self.epoch_max = max(self.epoch_max, record.epoch_max)",
        "self.epoch_max = record.epoch_max",
        (*OF_STATE, *OF_MACHINE),
    ),
    Mutant(
        "an acknowledgement of an earlier generation does not count",
        MACHINE,
        "if epoch is None or report.generation != epoch.generation or report.epoch != epoch.number:",
        "if epoch is None or report.epoch != epoch.number:",
        OF_MACHINE,
    ),
    Mutant(
        "an acknowledgement of another epoch does not count",
        MACHINE,
        "if epoch is None or report.generation != epoch.generation or report.epoch != epoch.number:",
        "if epoch is None or report.generation != epoch.generation:",
        OF_MACHINE,
    ),
    Mutant(
        "an epoch is committed once",
        MACHINE,
        'if self.phase != "running" or epoch.committing:',
        'if self.phase != "running":',
        OF_MACHINE,
    ),
    Mutant(
        "tasks start when all nodes are ready",
        MACHINE,
        "if any(node not in self._prepared for node in self._nodes_in_use()):",
        "if False:",
        OF_MACHINE,
    ),
    Mutant(
        "a report of an earlier generation that a task is ready does not count",
        MACHINE,
        'if self.phase != "deploying" or report.generation != self.state.generation:',
        'if self.phase != "deploying":',
        OF_MACHINE,
    ),
    Mutant(
        "a job that makes no progress fails in the end",
        MACHINE,
        "if self._fruitless > FRUITLESS_RECOVERIES_MAX:",
        "if False:",
        OF_MACHINE,
    ),
    Mutant(
        "a job ends when its output is published",
        MACHINE,
        'if self._pending[0] == "commit" or not self._publication.done:',
        'if self._pending[0] == "commit":',
        OF_MACHINE,
    ),
    Mutant(
        "a new leader uses no epoch number that the one before may have used",
        MACHINE,
        "self.state.epoch_max += 1 if self.state.generation else 0",
        "pass",
        OF_MACHINE,
    ),
    Mutant(
        "an epoch that does not end is a failure",
        MACHINE,
        "if epoch.committing or now < epoch.triggered_at + self._epoch_timeout_s():",
        "if True:",
        OF_MACHINE,
    ),
    Mutant(
        "a slow destination slows the sources down",
        MACHINE,
        "        if self._publication.backlog():\n            return []",
        "        if False:\n            return []",
        OF_MACHINE,
    ),
    Mutant(
        "a take-over of an earlier term is ignored",
        LEADER,
        "if term != self.term or not self.taking_over:",
        "if not self.taking_over:",
        OF_LEADER,
    ),
    Mutant(
        "a leader that is replaced steps down",
        LEADER,
        "        if view.leader != self.name:\n            return self._step_down()\n",
        "        if view.leader != self.name:\n            return []\n",
        OF_LEADER,
    ),
    Mutant(
        "an older view changes nothing",
        LEADER,
        "if view.version <= self.view.version:",
        "if False:",
        OF_LEADER,
    ),
    Mutant(
        "a leader whose append is refused leads no more",
        LEADER,
        "            case LogRejected():\n                return self._start_over()\n",
        "            case LogRejected():\n                return []\n",
        OF_MACHINE,
    ),
    Mutant(
        "one epoch of a sink task is published at a time",
        PUBLICATION,
        "if task in busy or not nodes:",
        "if not nodes:",
        OF_PUBLICATION,
    ),
    Mutant(
        "published means that all earlier epochs are published too",
        PUBLICATION,
        "state.published = max(state.published, first_left - 1)",
        "state.published = max(state.published, epoch)",
        OF_PUBLICATION,
    ),
    Mutant(
        "output that is not confirmed in time is published again",
        PUBLICATION,
        "if now - told[1] <= PUBLISH_TIMEOUT_S}",
        "}",
        OF_PUBLICATION,
    ),
    Mutant(
        "a segment file is kept while the log may still need it",
        SEGMENTS,
        "for _, _, references in (*state.unpublished, *confirmed):",
        "for _, _, references in state.unpublished:",
        OF_SEGMENTS,
    ),
    Mutant(
        "a job log that belongs to a later term is not taken over",
        JOB_LOGS,
        "if _newest_term(data) > self._term:",
        "if False:",
        OF_JOB_LOGS,
    ),
    Mutant(
        "a leader appends only where it knows the log to end",
        JOB_LOGS,
        "file, data, self._writer, sequence + 1, if_offset=length,",
        "file, data, self._writer, sequence + 1, if_offset=None,",
        OF_JOB_LOGS,
    ),
    Mutant(
        "after an append with an unknown outcome the log is taken over again",
        JOB_LOGS,
        "length, sequence = self._files.pop(file)",
        "length, sequence = self._files[file]",
        OF_JOB_LOGS,
    ),
    Mutant(
        "a log thread that dies ends the agent",
        DISPATCHER,
        "    def _log_failed(self, error: Exception) -> bool:\n        self._on_crash(error)\n",
        "    def _log_failed(self, error: Exception) -> bool:\n",
        OF_DISPATCHER,
    ),
)
