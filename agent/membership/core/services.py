"""Which services of this node live: those whose local connection stands and who renewed it in time.

The other agents of the node hold a connection to this one. The kernel closes it in the moment in which such a
process dies, so a crash needs no time-out to be noticed. A process that hangs keeps its connection but stops
renewing its word, and counts as dead after ``RENEWAL_TIMEOUT_S``.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.membership.member import SERVICES

# Renewed every half second. On a machine that is out of breath a second or two may pass in between.
RENEWAL_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Attached:
    connection: int
    expires_at: float


class LocalServices:
    """The services attached to this node's membership agent."""

    def __init__(self) -> None:
        self._attached: dict[str, _Attached] = {}

    @property
    def mask(self) -> int:
        """Returns a bit for each service that lives, as a member's record carries them."""
        if not self._attached:
            return 0
        return sum(1 << index for index, name in enumerate(SERVICES) if name in self._attached)

    def attach(self, now: float, service: str, connection: int) -> None:
        """Takes note that a service lives and by which connection it says so; the newest one counts."""
        self._attached[service] = _Attached(connection, now + RENEWAL_TIMEOUT_S)

    def detach(self, connection: int) -> None:
        """Takes note that a connection is closed."""
        for service in [name for name, entry in self._attached.items() if entry.connection == connection]:
            del self._attached[service]

    def expire(self, now: float) -> None:
        """Drops the services that have not renewed their word."""
        if not self._attached:
            return
        for service in [name for name, entry in self._attached.items() if entry.expires_at <= now]:
            del self._attached[service]

    def next_deadline(self) -> float | None:
        """Returns when the next service counts as hung."""
        if not self._attached:
            return None
        return min([entry.expires_at for entry in self._attached.values()])
