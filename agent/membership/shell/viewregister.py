"""The register of the agreed view, which the voters change by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.membership.core import view as views
from agent.membership.view import EMPTY, REGISTER, View, check
from agent.wire.client import Client, Target
from agent.wire.register.proposer import Registers

TIMEOUT_S = 3.0


class ViewRegister:
    """Reads and changes the view on behalf of one node; every operation asks the voters.

    ``configured`` are the voters of a cluster in which none was replaced yet.
    """

    def __init__(
        self,
        node: str,
        client: Client,
        targets: dict[str, Target],
        configured: Sequence[str],
        target: Callable[[str], Target],
    ) -> None:
        self._configured = configured
        self.registers = Registers(
            node,
            REGISTER,
            client,
            targets,
            groups_of=lambda value: views.groups(_view_of(value), configured),
            target=target,
            check=check,
        )

    def close(self) -> None:
        """Ends the operations in progress."""
        self.registers.close()

    def read(self) -> View | None:
        """Returns the view, or None before the first one.

        Raises:
            NoMajority: too few voters answer.
        """
        return _view_of(self.registers.read(REGISTER, timeout_s=TIMEOUT_S))

    def change(self, change: Callable[[View | None], View | None]) -> View | None:
        """Replaces the view by the result of ``change``, and returns the chosen view.

        Raises:
            NoMajority: too few voters answer.
            RainStormError: what ``change`` refuses with.
        """

        def changed(value: Any) -> Any:
            view = change(_view_of(value))
            return None if view is None else view.as_fields()

        return _view_of(self.registers.change(REGISTER, changed, timeout_s=TIMEOUT_S))

    def replace_voter(self, old: str, new: str) -> View:
        """Makes ``new`` a voter in place of ``old``; with two empty names it finishes a replacement.

        Raises:
            NoMajority: too few voters answer; the view shows how far it went, and it can be repeated.
            Conflict, NotFound: the replacement is not possible.
        """

        def begin(view: View | None) -> View | None:
            return views.replace_voter(view, old, new, self._configured) if old else view

        # The second change is safe only after the first one is known to be chosen.
        chosen = self.change(begin)
        return self.change(lambda view: views.finish_replacement(view, chosen)) or EMPTY

    def voters(self) -> set[str]:
        """Returns the nodes that vote, according to a majority of them: two groups during a replacement.

        Raises:
            NoMajority: too few voters answer.
        """
        return {name for group in views.groups(self.read(), self._configured) for name in group}


def _view_of(value: object) -> View | None:
    """Returns the view that the register holds, or None before the first one."""
    return None if value is None else View.from_fields(value)
