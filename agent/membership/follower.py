"""Follows the view in another agent of the node: keeps the newest one and hands it to subscribers.

A thread asks the membership agent of the node with long polls. While that agent is down, the last view stays:
the view is a guide, and terms and promises fence whatever must be safe. Subscribers are called
in the follower's thread, outside its lock. A subscriber that cannot take a view at the moment raises a
``RainStormError`` (``Overloaded``, for instance), and gets the newest view a little later. So no subscriber
stays behind because it was busy once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.membership.client import MembershipClient
from agent.membership.view import EMPTY, View
from agent.wire.client import Client

logger = logging.getLogger("agent.membership.follower")

# How long one poll waits for a newer view; stopping the thread does not wait for the poll.
WATCH_S = 10.0
# A membership agent that restarts is back within a second: ask again soon at first, then less often.
RETRY_S, RETRY_S_MAX = 0.2, 1.0

JOIN_S = 0.2

Subscriber = Callable[[View], None]


class HeldView:
    """A view that its owner sets; subscribers get each newer one."""

    def __init__(self, view: View = EMPTY) -> None:
        self._view = view
        self._changed = threads.condition()
        # The version that each subscriber has taken. A few parts of one agent subscribe, all at its start.
        self._taken: dict[Subscriber, int] = {}

    def current(self) -> View:
        """Returns the newest view known here."""
        return self._view

    def subscribe(self, subscriber: Subscriber) -> None:
        """Calls ``subscriber`` with every view that is newer than the current one."""
        with self._changed:
            self._taken[subscriber] = self._view.version

    def reach(self, version: int, timeout_s: float) -> bool:
        """Waits until the view is at least ``version`` and tells whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._view.version >= version, timeout_s)

    def set(self, view: View) -> bool:
        """Takes ``view`` when it is newer, tells the subscribers, and returns whether it was newer."""
        taken = self._take(view)
        if taken:
            self._deliver()
        return taken

    def _take(self, view: View) -> bool:
        with self._changed:
            if view.version <= self._view.version:
                return False
            self._view = view
            self._changed.notify_all()
            return True

    def _deliver(self) -> bool:
        """Tells the subscribers that are behind; returns whether all of them have caught up."""
        view, complete = self._view, True
        with self._changed:
            behind = [subscriber for subscriber, version in self._taken.items() if version < view.version]
        for subscriber in behind:
            try:
                subscriber(view)
            except RainStormError as error:
                logger.warning("view_not_taken version=%d error=%s", view.version, error)
                complete = False
            else:
                with self._changed:
                    self._taken[subscriber] = view.version
        return complete


class ViewFollower(HeldView):
    """The view of this node's membership agent, limited to the nodes that are configured here."""

    def __init__(self, name: str, socket_path: str, nodes: Sequence[str], first: View = EMPTY) -> None:
        """Prepares to follow for the agent ``name``; ``first`` is its view until the first answer."""
        super().__init__(first)
        self._nodes = tuple(nodes)
        self._client = Client(None)
        self._membership = MembershipClient(self._client, socket_path)
        self._stopping = threads.event()
        self._thread = threads.thread(f"{name}-view", self._follow)

    def start(self) -> None:
        """Starts to follow."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread, and the poll that it waits for."""
        self._stopping.set()
        deadline = Deadline(threads.monotonic(), timeout_s)
        self._client.close()
        while self._thread.is_alive() and deadline.remaining(threads.monotonic()) > 0:
            self._thread.join(JOIN_S)
            self._client.close()  # a poll may have begun just after the first close

    def _follow(self) -> None:
        pause_s, complete = RETRY_S, True
        try:
            while not self._stopping.is_set():
                try:
                    found = self._membership.watch(self._view.version, WATCH_S if complete else 0.0)
                except RainStormError as error:
                    if pause_s == RETRY_S and not self._stopping.is_set():
                        logger.info("view_unknown error=%s", error)
                    self._stopping.wait(pause_s)
                    pause_s = min(RETRY_S_MAX, 2 * pause_s)
                else:
                    pause_s = RETRY_S
                    self._learn(found.among(self._nodes))
                complete = self._deliver()
                if not complete:
                    self._stopping.wait(RETRY_S)
        finally:
            self._client.close()

    def _learn(self, view: View) -> None:
        if self._take(view):
            line = "view_changed version=%d term=%d leader=%s up=%s"
            logger.info(line, view.version, view.term, view.leader or "none", ",".join(view.up_names()))
