"""What other agents, tools and tests ask a membership agent."""

from __future__ import annotations

from typing import Any

from agent.wire.client import Client, Target

# A request must outlive the wait that it asks for.
MARGIN_S = 2.0
MEMBERS_KEYS = ("members", "view", "majority", "self", "health", "datagrams")


class MembershipClient:
    """Requests to one membership agent."""

    def __init__(self, client: Client, target: Target, *, timeout_s: float = 5.0) -> None:
        self._client = client
        self._target = target
        self._timeout_s = timeout_s

    def members(self) -> dict[str, Any]:
        """Returns what that node believes: ``members``, the ``view``, whether it sees a ``majority``,
        ``self``, its local ``health`` score (0 is best) and the traffic of its ``datagrams``.

        Raises:
            Unreachable: the agent does not answer.
        """
        fields = self._call("membership.members")
        return {key: fields[key] for key in MEMBERS_KEYS}

    def view(self) -> dict[str, Any]:
        """Returns the newest view that the node knows; version 0 when there is none yet."""
        return dict(self._call("membership.view")["view"])

    def watch(self, version: int, timeout_s: float) -> dict[str, Any]:
        """Returns the view as soon as its version is above ``version``, or after ``timeout_s`` as it is."""
        fields = {"version": version, "wait_s": timeout_s}
        found = self._client.call(
            self._target, "membership.watch", fields, timeout_s=timeout_s + MARGIN_S
        ).fields
        return dict(found["view"])

    def hint(self, name: str) -> None:
        """Says that contact with the node ``name`` was lost, so that it is probed at once.

        Raises:
            NotFound: no such node is known.
        """
        self._call("membership.hint", {"name": name})

    def leave(self) -> None:
        """Makes the node leave the cluster; it comes back when its agent is started again."""
        self._call("membership.leave")

    def _call(self, kind: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._client.call(self._target, kind, fields, timeout_s=self._timeout_s).fields
