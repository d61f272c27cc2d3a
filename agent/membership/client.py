"""What other agents, tools and tests ask a membership agent."""

from __future__ import annotations

from typing import Any

from agent.membership.view import View
from agent.wire.client import Client, Target

# A request must outlive the wait that it asks for.
MARGIN_S = 2.0
# Two changes of the register, each with its own time limit.
VOTERS_TIMEOUT_S = 8.0
MEMBERS_KEYS = ("members", "view", "majority", "self", "left", "health", "settings", "voters", "datagrams")


class MembershipClient:
    """Requests to one membership agent."""

    def __init__(self, client: Client, target: Target, *, timeout_s: float = 5.0) -> None:
        self._client = client
        self._target = target
        self._timeout_s = timeout_s

    def members(self, *, probe: bool = False) -> dict[str, Any]:
        """Returns what that node believes: ``members``, the ``view``, whether it sees a ``majority``,
        ``self``, whether it has ``left``, its local ``health`` score (0 is best), the cluster's ``settings``,
        the groups of ``voters`` (two while one is replaced) and the traffic of its ``datagrams``. With
        ``probe`` it also tries to reach each member by TCP.

        Raises:
            Unreachable: the agent does not answer.
        """
        fields = self._call("membership.members", {"probe": probe})
        return {key: fields[key] for key in MEMBERS_KEYS}

    def view(self) -> View:
        """Returns the newest view that the node knows; version 0 when there is none yet."""
        return View.from_fields(self._call("membership.view").get("view"))

    def watch(self, version: int, timeout_s: float) -> View:
        """Returns the view as soon as its version is above ``version``, or after ``timeout_s`` as it is."""
        fields = {"version": version, "wait_s": timeout_s}
        found = self._client.call(
            self._target, "membership.watch", fields, timeout_s=timeout_s + MARGIN_S
        ).fields
        return View.from_fields(found.get("view"))

    def hint(self, name: str) -> None:
        """Says that contact with the node ``name`` was lost, so that it is probed at once.

        Raises:
            NotFound: no such node is known.
        """
        self._call("membership.hint", {"name": name})

    def why(self, name: str) -> dict[str, Any]:
        """Returns what the node remembers of another one: its ``story``, ``reporters`` and ``state``.

        Raises:
            NotFound: no such node is known.
        """
        return self._call("membership.why", {"name": name})

    def events(self, since: int, timeout_s: float) -> dict[str, Any]:
        """Returns the ``events`` after number ``since`` as soon as there are any, or none after the wait;
        ``last`` is the newest number and ``missed`` tells whether older ones are gone already.
        """
        fields = {"since": since, "wait_s": timeout_s}
        found = self._client.call(
            self._target, "membership.events", fields, timeout_s=timeout_s + MARGIN_S
        ).fields
        return {key: found[key] for key in ("events", "last", "missed")}

    def leave(self) -> None:
        """Makes the node leave the cluster until it is told to join again or its agent is started anew."""
        self._call("membership.leave")

    def join(self) -> None:
        """Makes a node that has left a member again."""
        self._call("membership.join")

    def switch(self, detector: str | None, suspicion: bool | None) -> dict[str, Any]:
        """Makes the whole cluster detect failures in another way and returns the new settings.

        Raises:
            UsageError: there is no such detector.
        """
        wanted = {"detector": detector, "suspicion": suspicion}
        fields = {key: value for key, value in wanted.items() if value is not None}
        return dict(self._call("membership.switch", fields)["settings"])

    def drop(self, percent: float | None = None, seed: int | None = None) -> float:
        """Makes the node throw away a share of the datagrams that come in, and returns the share in force.

        Raises:
            UsageError: it is not from 0 to 100.
        """
        fields = {} if percent is None else {"percent": percent, "seed": seed}
        return float(self._call("membership.drop", fields)["percent"])

    def replace_voter(self, old: str, new: str) -> View:
        """Makes ``new`` a voter of the view in place of ``old`` and returns the view; with two empty names it
        finishes a replacement that was interrupted.

        Raises:
            NoMajority: too few voters answer; it can be tried again.
            Conflict, NotFound: ``new`` is not up or votes already, ``old`` does not vote.
        """
        fields = {"old": old, "new": new}
        found = self._client.call(self._target, "membership.voters", fields, timeout_s=VOTERS_TIMEOUT_S)
        return View.from_fields(found.fields.get("view"))

    def keys(self, operation: str, *, key: str = "", fingerprint: str = "") -> list[str]:
        """Changes the node's ring of gossip keys (``list``, ``install``, ``use``, ``remove``) and returns the
        fingerprints in it, that of the key which seals first.
        """
        fields = {"operation": operation, "key": key, "fingerprint": fingerprint}
        return [str(mark) for mark in self._call("membership.keys", fields)["fingerprints"]]

    def _call(self, kind: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._client.call(self._target, kind, fields, timeout_s=self._timeout_s).fields
