"""Decides when to retry a failed file: soon at first, then less and less often.

A file that cannot be repaired now (a holder is down, a copy is damaged, the voters do not answer) is
checked again after ``RETRY_S``, and after twice the time whenever it fails again. A change of the view makes
all of them due: a node that came back may hold a good copy.
"""

from __future__ import annotations

RETRY_S = 2.0
# A copy that no holder can provide is requested only this often, until a node comes or goes.
RETRY_S_MAX = 300.0
# The next comparison of everything finds the names again, so forgetting one does no harm.
NAMES_MAX = 10_000


def delay_s(failures: int) -> float:
    """Returns how long to wait after this number of failures in a row (at least one)."""
    return min(RETRY_S_MAX, RETRY_S * 2.0 ** min(failures - 1, 30))


class Postponed:
    """The names that failed."""

    def __init__(self) -> None:
        # When each name is due, and how often it has failed in a row.
        self._names: dict[str, tuple[float, int]] = {}

    def fail(self, now: float, name: str) -> bool:
        """Notes a failure; returns False when there are too many names to remember this one."""
        _, failures = self._names.get(name, (0.0, 0))
        if not failures and len(self._names) >= NAMES_MAX:
            return False
        self._names[name] = (now + delay_s(failures + 1), failures + 1)
        return True

    def succeed(self, name: str) -> None:
        """Forgets a name."""
        self._names.pop(name, None)

    def view_changed(self, now: float) -> None:
        """Makes every name due, as if none had failed before."""
        self._names = {name: (now, 1) for name in self._names}

    def waits(self, now: float, name: str) -> bool:
        """Tells whether it is too early to try this name again."""
        return name in self._names and now < self._names[name][0]

    def due(self, now: float) -> list[str]:
        """Returns the names to try now."""
        return [name for name, (at, _) in self._names.items() if at <= now]

    def next_at(self) -> float | None:
        """Returns when the next name is due."""
        return min((at for at, _ in self._names.values()), default=None)
