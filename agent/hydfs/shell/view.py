"""Where the store learns the cluster view from.

The view guides placement (which nodes a new block may go to) and tells early that a node is down. It is never
needed for safety: who may acknowledge an append is settled by the file table and by the replicas' promises.
A store that is alone, as in a test or before membership answers, uses the configured nodes as version 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.membership.client import MembershipClient
from agent.wire.client import Client, Target

logger = logging.getLogger("agent.hydfs.shell.view")

WATCH_S = 10.0
RETRY_S = 0.2

View = dict[str, Any]


class ViewSource(Protocol):
    """Something that knows the current view."""

    def current(self) -> View:
        """Returns the newest view known here."""

    def subscribe(self, callback: Callable[[View], None]) -> None:
        """Calls ``callback`` with every newer view, from a thread of the source."""

    def reach(self, version: int, timeout_s: float) -> bool:
        """Waits until the view is at least ``version`` and tells whether it is."""

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` of which is known that their machine lives but their store does not."""


def all_up(nodes: Sequence[str]) -> View:
    """Returns version 0: every configured node is taken to be up."""
    return {
        "version": 0,
        "term": 0,
        "leader": "",
        "nodes": {node: {"state": "up", "node_id": node, "since": 0} for node in nodes},
    }


def up_nodes(view: View) -> list[str]:
    """Returns the names of the nodes that are up, sorted."""
    return sorted(name for name, node in view["nodes"].items() if node["state"] == "up")


class SettableView:
    """A view that its owner sets; subscribers hear of each newer one."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lock = threads.condition()
        self._callbacks: list[Callable[[View], None]] = []

    def current(self) -> View:
        """Returns the view."""
        return self._view

    def subscribe(self, callback: Callable[[View], None]) -> None:
        """Registers a callback for newer views."""
        with self._lock:
            self._callbacks.append(callback)

    def reach(self, version: int, timeout_s: float) -> bool:
        """Waits until the view is at least ``version`` and tells whether it is."""
        with self._lock:
            return self._lock.wait_for(lambda: bool(self._view["version"] >= version), timeout_s)

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns none: a view alone does not tell."""
        return []

    def set(self, view: View) -> bool:
        """Takes ``view`` when it is newer and tells whether it was."""
        with self._lock:
            if view["version"] <= self._view["version"]:
                return False
            self._view = view
            self._lock.notify_all()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(view)
        return True


class MembershipView(SettableView):
    """The view of this machine's membership agent, followed by a thread; only nodes of the first one."""

    def __init__(self, client: Client, target: Target, first: View) -> None:
        super().__init__(first)
        self._names = tuple(first["nodes"])
        self._membership = MembershipClient(client, target)
        self._stopping = threads.event()
        self._thread = threads.thread("hydfs-view", self._follow)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a watch under way ends when the client closes or with its waiting time."""
        self._stopping.set()

    def hint(self, node: str) -> None:
        """Tells membership that contact with ``node`` was lost."""
        try:
            self._membership.hint(node)
        except RainStormError as error:
            logger.debug("hint_failed node=%s error=%s", node, error)

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` that gossip of themselves that their store is down."""
        try:
            members = self._membership.members().members
        except RainStormError as error:
            logger.debug("services_unknown error=%s", error)
            return []
        alive = {each.name: each.services["hydfs"] for each in members if each.state == "alive"}
        return [node for node in nodes if alive.get(node, "up") != "up"]

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                found = self._membership.watch(int(self.current()["version"]), WATCH_S)
                view = found.among(self._names).as_fields()
            except RainStormError as error:
                logger.debug("view_unknown error=%s", error)
                self._stopping.wait(RETRY_S)
                continue
            if view["version"] > 0 and self.set(view):
                logger.info("view_changed version=%d up=%s", view["version"], ",".join(up_nodes(view)))
