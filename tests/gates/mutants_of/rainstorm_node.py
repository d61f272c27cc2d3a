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
BOUNDARIES = "agent/rainstorm/job/boundaries.py"
STORAGE = "agent/rainstorm/io/storage.py"
LINKS = "agent/rainstorm/io/links.py"

OF_HOST = ("tests/unit/rainstorm/host/core/test_host.py",)
OF_WRITERS = ("tests/unit/rainstorm/host/shell/test_writers.py",)
OF_SUPERVISOR = ("tests/unit/rainstorm/host/shell/test_supervisor.py",)
OF_ALIGNMENT = ("tests/unit/rainstorm/task/core/test_alignment.py",)
OF_PROCESSOR = ("tests/unit/rainstorm/task/core/test_processor.py",)
OF_BOUNDARIES = (
    "tests/unit/rainstorm/job/test_boundaries.py::test_a_line_feed_inside_quotes_ends_no_record",
)
OF_READER = ("tests/unit/rainstorm/task/sources/test_splitreader.py",)
OF_KEYED = ("tests/unit/rainstorm/task/state/test_keyed.py",)
OF_LOOP = ("tests/unit/rainstorm/task/shell/test_loop.py",)
OF_STORAGE = ("tests/unit/rainstorm/io/test_storage.py",)
OF_LINKS = ("tests/unit/rainstorm/io/test_links.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a command of an earlier term is ignored",
        HOST,
        "if command.term < self.term:",
        "if False:",
        OF_HOST,
    ),
    Mutant(
        "a snapshot of an earlier generation is ignored",
        HOST,
        "        epoch, generation = event.said.epoch, event.said.generation\n"
        "        if not self._current(event.job, generation):\n",
        "        epoch, generation = event.said.epoch, event.said.generation\n        if False:\n",
        OF_HOST,
    ),
    Mutant(
        "an epoch is acknowledged when all tasks of the node have handed it over",
        HOST,
        "if len(gathered) < len(job.tasks):",
        "if not gathered:",
        OF_HOST,
    ),
    Mutant(
        "what a task hands over first counts",
        HOST,
        "        if event.task in gathered:\n",
        "        if False:\n",
        OF_HOST,
    ),
    Mutant(
        "epochs that are open are bounded",
        HOST,
        "if epoch not in job.open and len(job.open) >= EPOCHS_OPEN_MAX:",
        "if False:",
        OF_HOST,
    ),
    Mutant(
        "an older generation does not stop a newer one",
        HOST,
        "return self._stop(job) if self._known(job, generation) else []",
        "return self._stop(job)",
        OF_HOST,
    ),
    Mutant(
        "output of epochs that never happened is not published",
        HOST,
        "if key[0] <= committed}",
        "}",
        OF_HOST,
    ),
    Mutant(
        "an epoch of a sink task is published under one sequence",
        WRITERS,
        "sequence = wanted.epoch * PIECES_PER_EPOCH_MAX + number",
        "sequence = wanted.epoch * PIECES_PER_EPOCH_MAX + number + id(wanted)",
        OF_WRITERS,
    ),
    Mutant(
        "after a failed append segments go to a new file",
        WRITERS,
        "            self._open.pop(wanted.job, None)\n",
        "            pass\n",
        OF_WRITERS,
    ),
    Mutant(
        "a task that sends an invalid message is ended",
        SUPERVISOR,
        "        self.kill()\n        self.exited.wait(EXIT_TIMEOUT_S)\n",
        "        self.exited.wait(EXIT_TIMEOUT_S)\n",
        OF_SUPERVISOR,
    ),
    Mutant(
        "a channel that has delivered its barrier is held back",
        ALIGNMENT,
        "return self._exactly_once and self._delivered.get(channel, 0) > self._epoch",
        "return False",
        OF_ALIGNMENT,
    ),
    Mutant(
        "an epoch has ended when all channels have delivered its barrier",
        ALIGNMENT,
        "reached = min(self._delivered.get(name, self._epoch) for name in self._channels)",
        "reached = max(self._delivered.get(name, self._epoch) for name in self._channels)",
        OF_ALIGNMENT,
    ),
    Mutant(
        "a source takes a bounded number of bytes into an epoch",
        PROCESSOR,
        "if self._reader is None or self._epoch_bytes >= EPOCH_BYTES_MAX:",
        "if self._reader is None:",
        OF_PROCESSOR,
    ),
    Mutant(
        "a task that goes back undoes what it changed since",
        PROCESSOR,
        "                operator.state.roll_back(restore.epoch)\n",
        "                pass\n",
        OF_PROCESSOR,
    ),
    Mutant(
        "the undo of an epoch holds the value before its first change",
        KEYED,
        "        if key not in self._open:\n",
        "        if True:\n",
        OF_KEYED,
    ),
    Mutant(
        "epochs are undone from the newest to the oldest",
        KEYED,
        "if number > epoch), reverse=True):",
        "if number > epoch)):",
        OF_KEYED,
    ),
    Mutant(
        "a line feed inside quotes does not end a record at a split",
        BOUNDARIES,
        "        if not parity:\n",
        "        if True:\n",
        OF_BOUNDARIES,
    ),
    Mutant(
        "a split begins with the parity of the quotes before it",
        READER,
        "inside=self._inside.get(split.index, False)",
        "inside=False",
        OF_READER,
    ),
    Mutant(
        "a record is bounded",
        READER,
        "if request.size >= RECORD_BYTES_MAX:",
        "if False:",
        OF_READER,
    ),
    Mutant(
        "a channel of another generation is refused",
        LOOP,
        "if not current or self._core is None",
        "if self._core is None",
        OF_LOOP,
    ),
    Mutant(
        "an append is sent again with the same sequence until its outcome is known",
        STORAGE,
        "            except Conflict:\n                raise\n            except RainStormError as error:\n"
        "                self._give_up_or_wait(error, deadline, attempt)\n",
        "            except RainStormError:\n                raise\n",
        OF_STORAGE,
    ),
    Mutant(
        "a node whose commands find no room counts as unreachable",
        LINKS,
        '            self._fail("its queue is full")\n',
        "            pass\n",
        OF_LINKS,
    ),
)
