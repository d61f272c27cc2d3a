"""Stand-ins for the surroundings of a shell of the store: other agents, the registers, requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError
from agent.common.message import Done
from agent.common.register import Keys
from agent.common.shell import clock
from agent.wire.client import Answered
from agent.wire.endpoint import Call

Respond = Callable[[str, Any, Any], Any]


def call(payload: bytes = b"", *, peer: str = "operator", timeout_s: float = 10.0, view: int = 0) -> Call:
    """Returns what a handler learns about a request besides its message."""
    return Call(peer, Deadline(clock.monotonic(), timeout_s), payload, view)


class FakePeers:
    """Other agents, whose answers come from ``respond``: a message, or an error that it raises."""

    def __init__(self, me: str = "n1", names: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self.me = me
        self.names = names
        self.asked: list[tuple[str, Any]] = []
        self.told: list[tuple[str, Any]] = []
        self.suspected: list[str] = []
        self.respond: Respond = lambda node, request, payload: Done()
        self.full = False

    def ask(self, node: str, request: Any, payload: Any = b"", *, timeout_s: float) -> Answered[Any]:
        """Answers at once."""
        self.asked.append((node, request))
        found = self.respond(node, request, payload)
        return found if isinstance(found, Answered) else Answered(found, b"")

    def later(self, node: str, work: Callable[[], None]) -> bool:
        """Does the work at once, unless the queue to the node is full."""
        if not self.full:
            work()
        return not self.full

    def tell(self, node: str, request: Any, *, timeout_s: float = 2.0) -> None:
        """Notes the message."""
        self.told.append((node, request))

    def suspect(self, node: str, cause: str = "") -> None:
        """Notes a suspicion."""
        self.suspected.append(node)

    def suspects(self) -> list[str]:
        """Returns the suspected nodes."""
        return list(self.suspected)

    def requests(self, kind: type[Any]) -> list[tuple[str, Any]]:
        """Returns the requests of one type, with their receivers."""
        return [(node, request) for node, request in self.asked if isinstance(request, kind)]


class FakeRegisters:
    """Registers in one dictionary; ``error`` is raised instead of an answer while it is set."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = values
        self.error: RainStormError | None = None
        self.page = 1000

    def change(self, key: str, change: Callable[[Any], Any], *, timeout_s: float = 5.0) -> Any:
        """Applies a change."""
        if self.error is not None:
            raise self.error
        self.values[key] = change(self.values.get(key))
        return self.values[key]

    def read(self, key: str, *, timeout_s: float = 5.0) -> Any:
        """Returns a value."""
        if self.error is not None:
            raise self.error
        return self.values.get(key)

    def keys(self, prefix: str = "", *, timeout_s: float = 5.0) -> list[str]:
        """Returns the names."""
        if self.error is not None:
            raise self.error
        return sorted(key for key in self.values if key.startswith(prefix))

    def keys_page(self, prefix: str = "", after: str = "", *, timeout_s: float = 5.0) -> Keys:
        """Returns the next names."""
        found = [key for key in self.keys(prefix) if key > after]
        return Keys(tuple(found[: self.page]), len(found) > self.page)
