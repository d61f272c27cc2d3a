"""What simulated processes log: the latest lines for reports, and lines that come again and again.

It listens to the loggers of ``agent`` while a simulation runs. A warning or an error that a process repeats
while nothing is wrong any more is a loop that never learns.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.machine.scheduler import Scheduler

RECENT_LINES = 60


class Logbook(logging.Handler):
    """Keeps what is logged, with the virtual time and the process."""

    def __init__(self, scheduler: Scheduler, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._scheduler = scheduler
        self._recent: deque[tuple[float, str, logging.LogRecord]] = deque(maxlen=RECENT_LINES)
        # How often each process has logged each kind of problem since ``forget``.
        self.problems: Counter[tuple[str, str]] = Counter()
        # The same since the beginning.
        self.all_problems: Counter[tuple[str, str]] = Counter()
        self._logger = logging.getLogger("agent")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(level)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        process = self._scheduler.running.process.name if self._scheduler.running is not None else "?"
        self._recent.append((self._scheduler.now, process, record))
        if record.levelno >= logging.WARNING or "error=" in record.msg:
            self.problems[process, str(record.msg)] += 1
            self.all_problems[process, str(record.msg)] += 1

    def note(self, text: str) -> None:
        """Keeps a line of the schedule itself."""
        record = logging.LogRecord("schedule", logging.INFO, "", 0, text, (), None)
        self._recent.append((self._scheduler.now, "schedule", record))

    def forget(self) -> None:
        """Begins to count problems anew."""
        self.problems.clear()

    def repeated(self, count_max: int, total_max: int) -> list[str]:
        """Returns a line for each problem that came too often, lately or in all."""
        return [
            f"{process} logged {count} times: {line}"
            for problems, limit in ((self.problems, count_max), (self.all_problems, total_max))
            for (process, line), count in sorted(problems.items())
            if count > limit
        ]

    def recent(self) -> str:
        """Returns the latest lines."""
        return "\n".join(
            f"  {at:10.4f} {process}: {record.getMessage()}" for at, process, record in self._recent
        )

    def detach(self) -> None:
        """Ends listening."""
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
