"""The log lines of simulated processes: the latest ones for reports, and those that are repeated too often.

It listens to the loggers of ``agent`` while a simulation runs. If a process repeats a warning or an error
after the faults have ended, some loop retries without success. The last line of a thread that is older than
the calm is not such a loop: several connections from the time of the faults may end in the calm, and each
logs a line.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.machine.scheduler import Scheduler
    from tests.simulation.machine.thread import SimThread

RECENT_LINES = 60


class Logbook(logging.Handler):
    """Keeps log lines with their virtual time and process."""

    def __init__(self, scheduler: Scheduler, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._scheduler = scheduler
        self._recent: deque[tuple[float, str, logging.LogRecord]] = deque(maxlen=RECENT_LINES)
        # How often each process has logged each kind of problem since ``forget``.
        self.problems: Counter[tuple[str, str]] = Counter()
        # The same since the beginning.
        self.all_problems: Counter[tuple[str, str]] = Counter()
        # The threads that were there at ``forget``, and which of them logged each kind of problem since.
        self._old: set[SimThread] = set()
        self._by_old: defaultdict[tuple[str, str], set[SimThread]] = defaultdict(set)
        self._logger = logging.getLogger("agent")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(level)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        thread = self._scheduler.running
        process = thread.process.name if thread is not None else "?"
        self._recent.append((self._scheduler.now, process, record))
        if record.levelno >= logging.WARNING or "error=" in record.msg:
            kind = process, str(record.msg)
            self.problems[kind] += 1
            self.all_problems[kind] += 1
            if thread is not None and thread in self._old:
                self._by_old[kind].add(thread)

    def note(self, text: str) -> None:
        """Keeps a line of the schedule itself."""
        record = logging.LogRecord("schedule", logging.INFO, "", 0, text, (), None)
        self._recent.append((self._scheduler.now, "schedule", record))

    def forget(self) -> None:
        """Resets the recent counts of problems."""
        self.problems.clear()
        self._by_old.clear()
        self._old = {thread for process in self._scheduler.processes for thread in process.threads}

    def repeated(self, count_max: int, total_max: int) -> list[str]:
        """Returns a line for each problem that was logged too often, recently or in total."""
        lately = {
            kind: count - sum(not thread.is_alive() for thread in self._by_old.get(kind, ()))
            for kind, count in self.problems.items()
        }
        return [
            f"{process} logged {count} times: {line}"
            for problems, limit in ((lately, count_max), (self.all_problems, total_max))
            for (process, line), count in sorted(problems.items())
            if count > limit
        ]

    def recent(self) -> str:
        """Returns the latest lines."""
        return "\n".join(
            f"  {at:10.4f} {process}: {record.getMessage()}" for at, process, record in self._recent
        )

    def detach(self) -> None:
        """Stops listening."""
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
