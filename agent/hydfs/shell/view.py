"""The store's source of the cluster view.

The view guides placement (which nodes a new block may go to) and tells early that a node is down. It is never
needed for safety: the file table and the replicas' promises decide which node may acknowledge an append.
Until membership answers, a store uses the configured nodes as version 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.common.errors import RainStormError
from agent.membership.client import MembershipClient
from agent.membership.follower import ViewFollower
from agent.membership.view import UP, NodeEntry, View
from agent.wire.client import Client

logger = logging.getLogger("agent.hydfs.shell.view")


class ViewSource(Protocol):
    """A source of the current view."""

    def current(self) -> View:
        """Returns the newest view known here."""

    def subscribe(self, subscriber: Callable[[View], None]) -> None:
        """Calls ``subscriber`` with every newer view, from a thread of the source."""

    def reach(self, version: int, timeout_s: float) -> bool:
        """Waits until the view is at least ``version`` and tells whether it is."""

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` that are up although their store is known to be down."""


def all_up(nodes: Sequence[str]) -> View:
    """Returns version 0, in which every configured node is up."""
    return View(nodes={node: NodeEntry(UP, node) for node in nodes})


class MembershipView(ViewFollower):
    """The view of this machine's membership agent, limited to the configured nodes."""

    def __init__(self, client: Client, socket_path: str, nodes: Sequence[str]) -> None:
        super().__init__("hydfs", socket_path, nodes, all_up(nodes))
        self._gossip = MembershipClient(client, socket_path)

    def hint(self, node: str) -> None:
        """Tells membership that the contact with ``node`` was lost."""
        try:
            self._gossip.hint(node)
        except RainStormError as error:
            logger.debug("hint_failed node=%s error=%s", node, error)

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` whose own gossip says that their store is down."""
        try:
            members = self._gossip.members().members
        except RainStormError as error:
            logger.debug("services_unknown error=%s", error)
            return []
        alive = {each.name: each.services.get("hydfs", UP) for each in members if each.state == "alive"}
        return [node for node in nodes if alive.get(node, UP) != UP]
