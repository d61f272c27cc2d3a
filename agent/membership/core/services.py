"""The services of this node that are alive: those that renewed their local connection in time.

The other agents of the node hold a connection to this one. The kernel closes it as soon as such a process
dies, so a crash is noticed without a time-out. A process that stalls keeps its connection but does not renew
it, and counts as dead after ``RENEWAL_TIMEOUT_S``.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.membership.member import SERVICES

# Renewed every half second. On an overloaded machine a second or two may pass in between.
RENEWAL_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Attached:
    connection: int
    expires_at: float


class LocalServices:
    """The services attached to this node's membership agent."""

    def __init__(self) -> None:
        self._attached: dict[str, _Attached] = {}
        # A bit for each service that is alive, as in a member's record; kept, as every datagram needs it.
        self.mask = 0
        self._expires_at: float | None = None

    def attach(self, now: float, service: str, connection: int) -> None:
        """Notes that a service is alive, and its connection; the newest connection counts."""
        self._attached[service] = _Attached(connection, now + RENEWAL_TIMEOUT_S)
        self._count()

    def detach(self, connection: int) -> None:
        """Notes that a connection was closed."""
        for service in [name for name, entry in self._attached.items() if entry.connection == connection]:
            del self._attached[service]
        self._count()

    def expire(self, now: float) -> None:
        """Drops the services that did not renew in time."""
        if self._expires_at is None or now < self._expires_at:
            return
        for service in [name for name, entry in self._attached.items() if entry.expires_at <= now]:
            del self._attached[service]
        self._count()

    def next_deadline(self) -> float | None:
        """Returns when the next service times out."""
        return self._expires_at

    def _count(self) -> None:
        self.mask = sum(1 << index for index, name in enumerate(SERVICES) if name in self._attached)
        self._expires_at = min([entry.expires_at for entry in self._attached.values()], default=None)
