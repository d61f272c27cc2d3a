"""Requests to a membership agent, for other agents, tools and tests.

A wrong argument is a ``UsageError``, and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.common import message
from agent.common.message import R, check_arguments
from agent.membership.messages.agents import Hint
from agent.membership.messages.events import ClusterEvent, GetEvents, MemberChanged, UnknownEvent, ViewChanged
from agent.membership.messages.members import GetMembers, MembersReply, SettingsReport, Why, WhyReply
from agent.membership.messages.orders import ChangeKeys, Drop, Join, KeyOperation, Leave, Switch
from agent.membership.messages.view import GetView, ReplaceVoter, WatchView
from agent.membership.view import View
from agent.wire.client import Client, Target

# The types of the answers: callers outside ``agent`` may import them only from here.
__all__ = [
    "Events",
    "MemberChanged",
    "MembersReply",
    "MembershipClient",
    "SettingsReport",
    "View",
    "ViewChanged",
    "WhyReply",
]

# A request must outlive the wait that it asks for.
MARGIN_S = 2.0
# Two changes of the register, each with its own time limit.
VOTERS_TIMEOUT_S = 8.0


@dataclass(frozen=True, slots=True)
class Events:
    """Events in order; ``last`` is the newest number, ``missed`` tells whether older ones are gone."""

    events: tuple[ClusterEvent | UnknownEvent, ...]
    last: int
    missed: bool


class MembershipClient:
    """Requests to one membership agent."""

    def __init__(self, client: Client, target: Target, *, timeout_s: float = 5.0) -> None:
        self._client = client
        self._target = target
        self._timeout_s = timeout_s

    def members(self, *, probe: bool = False) -> MembersReply:
        """Returns what that node believes; with ``probe`` it also tries to reach each member by TCP.

        Raises:
            Unreachable: the agent does not answer.
        """
        found = self._ask(GetMembers(probe))
        found.view.checked()
        return found

    def view(self) -> View:
        """Returns the newest view that the node knows; version 0 when there is none yet."""
        return self._ask(GetView()).view.checked()

    def watch(self, version: int, timeout_s: float) -> View:
        """Returns the view once its version is above ``version``; after ``timeout_s``, the unchanged one."""
        return self._ask(WatchView(version, timeout_s), timeout_s + MARGIN_S).view.checked()

    def hint(self, name: str) -> None:
        """Reports that contact with the node ``name`` was lost, so that it is probed at once.

        Raises:
            NotFound: no such node is known.
        """
        self._ask(Hint(name))

    def why(self, name: str) -> WhyReply:
        """Returns what the node remembers of another one.

        Raises:
            NotFound: no such node is known.
        """
        return self._ask(Why(name))

    def events(self, since: int, timeout_s: float) -> Events:
        """Returns the events after number ``since`` as soon as there are any, or none after the wait."""
        found = self._ask(GetEvents(since, timeout_s), timeout_s + MARGIN_S)
        return Events(found.decoded(), found.last, found.missed)

    def leave(self) -> None:
        """Makes the node leave the cluster until it is told to join again or its agent restarts."""
        self._ask(Leave())

    def join(self) -> None:
        """Makes a node that has left a member again."""
        self._ask(Join())

    def switch(self, detector: str | None, suspicion: bool | None) -> SettingsReport:
        """Changes how the whole cluster detects failures and returns the new settings.

        Raises:
            UsageError: there is no such detector.
        """
        return self._ask(Switch(detector, suspicion)).settings

    def drop(self, percent: float | None = None, seed: int | None = None) -> float:
        """Makes the node discard a share of its incoming datagrams, and returns the present share.

        Raises:
            UsageError: it is not from 0 to 100.
        """
        return self._ask(Drop(percent, seed)).percent

    def replace_voter(self, old: str, new: str) -> View:
        """Makes ``new`` a voter of the view in place of ``old`` and returns the view; with two empty names it
        finishes a replacement that was interrupted.

        Raises:
            NoMajority: too few voters answer; it can be tried again.
            Conflict, NotFound: ``new`` is not up or already votes, ``old`` does not vote.
        """
        return self._ask(ReplaceVoter(old, new), VOTERS_TIMEOUT_S).view.checked()

    def keys(self, operation: KeyOperation, *, key: str = "", fingerprint: str = "") -> list[str]:
        """Changes the node's ring of gossip keys (``list``, ``install``, ``use``, ``remove``) and returns the
        fingerprints of its keys; the key that seals comes first.
        """
        return list(self._ask(ChangeKeys(operation, key, fingerprint)).fingerprints)

    def _ask(self, request: message.Request[R], timeout_s: float | None = None) -> R:
        check_arguments(request)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return self._client.ask(self._target, request, timeout_s=limit_s).message
