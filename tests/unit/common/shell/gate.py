"""Handlers for the tests of workers and pools: one that waits, and one that fails."""

from __future__ import annotations

from agent.common.shell import threads

PATIENCE_S = 10.0


class Gate:
    """A handler that waits until it is opened, and the items that it handled."""

    def __init__(self) -> None:
        self.handled: list[object] = []
        self.entered = threads.event()
        self.opened = threads.event()

    def handle(self, item: object) -> None:
        """Takes an item once the gate is open."""
        self.entered.set()
        assert self.opened.wait(PATIENCE_S)
        self.handled.append(item)


def fail() -> None:
    """Fails."""
    raise OSError("on purpose")
