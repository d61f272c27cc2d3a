"""Makes a failing schedule short: delta debugging over its steps (Zeller and Hildebrandt, TSE 2002).

Steps are left out in ever smaller groups as long as the run still fails the same check; then durations and
settings are simplified. The result is printed as Python that replays it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

# A frozen dataclass with ``steps`` and ``on_good_wires``, whose text is Python that makes it.
Schedule = Any
RUNS_MAX = 150


def kind_of(error: BaseException) -> str:
    """Returns the kind of a failure, without the names and numbers that differ from run to run."""
    text = str(error).split("\n")[0]
    text = re.sub(r"seed \S+: ", "", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b|\b(n|vm)\d+\b|\d+(\.\d+)?", "#", text.partition("{")[0])
    return f"{type(error).__name__}: {text[:60]}"


class Shrinker:
    """Shrinks one schedule by running it again and again."""

    def __init__(self, run: Callable[[Schedule], object], runs_max: int = RUNS_MAX) -> None:
        self.runs = 0
        self._run = run
        self._runs_max = runs_max
        self._wanted = ""

    def failure(self, schedule: Schedule) -> str | None:
        """Returns the failure of the schedule, or None."""
        self.runs += 1
        try:
            self._run(schedule)
        except Exception as error:  # a broken check, or an error that nobody expected
            return kind_of(error)
        return None

    def shrink(self, schedule: Schedule) -> Schedule:
        """Returns a shorter schedule that fails the same check; the same one if it does not fail again."""
        found = self.failure(schedule)
        if found is None:
            return schedule
        self._wanted = found
        schedule = self._drop_steps(schedule)
        for simpler in self._simpler(schedule):
            candidate = simpler(schedule)
            if candidate != schedule and self._still_fails(candidate):
                schedule = candidate
        return self._drop_steps(schedule)

    def _still_fails(self, schedule: Schedule) -> bool:
        return self.runs < self._runs_max and self.failure(schedule) == self._wanted

    def _drop_steps(self, schedule: Schedule) -> Schedule:
        size = max(1, len(schedule.steps) // 2)
        while schedule.steps:
            start, dropped = 0, False
            while start < len(schedule.steps):
                kept = schedule.steps[:start] + schedule.steps[start + size :]
                candidate = replace(schedule, steps=kept)
                if self._still_fails(candidate):
                    schedule, dropped = candidate, True
                else:
                    start += size
            if size == 1 and not dropped:
                break
            size = max(1, size // 2)
        return schedule

    def _simpler(self, schedule: Schedule) -> Iterator[Callable[[Schedule], Schedule]]:
        yield lambda found: found.on_good_wires()
        for index in range(len(schedule.steps)):
            yield partial(_change, index=index, at_s=float(round(schedule.steps[index].at_s)))
            for duration_s in (0.3, 1.0, 2.0):
                if duration_s < schedule.steps[index].duration_s:
                    yield partial(_change, index=index, duration_s=duration_s)


def _change(found: Schedule, *, index: int, **changes: float) -> Schedule:
    steps = list(found.steps)
    steps[index] = replace(steps[index], **changes)
    return replace(found, steps=tuple(sorted(steps, key=lambda step: step.at_s)))
