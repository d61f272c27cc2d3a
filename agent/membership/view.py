"""The agreed view of the cluster: the nodes that count, the leader, the voters.

The newest version is the value of the view register (rules: ``core.view``). A membership agent sends it to
the other agents of its node, which follow it (``follower``) and act on it. ``version`` grows by one
with every change, ``term`` with every change of leader. A node that comes back with a new boot has another
``node_id``.

A view from a disk or a socket is checked before anything else sees it: every agent of the cluster acts on it,
so a malformed one could stop them all. A field that a later release adds must be safe to lose: a node of this
release that changes the view drops that field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import Counter

# The one register of membership.
REGISTER: Final = "view"
UP: Final = "up"
DOWN: Final = "down"
# The longest name that a datagram has room for; the same as in ``messages``.
NODE_NAME_BYTES_MAX = 63
# Ten times the largest cluster that was ever measured here: it limits the cost of one register value.
NODES_MAX = 10_000

NodeName = Annotated[str, Meta(min_length=1, max_length=NODE_NAME_BYTES_MAX)]
# The uuid of a disk and the boot counter, which stays below 10^18 and so fits a datagram.
NodeId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}:[0-9]{1,18}\Z")]


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node in a view: whether it counts, during which boot, and since which version."""

    state: Literal["up", "down"]
    node_id: NodeId
    since: Counter = 0

    @property
    def uuid(self) -> str:
        """Returns the identity of the node's disk."""
        return self.node_id.rpartition(":")[0]

    @property
    def boot(self) -> int:
        """Returns the boot counter of the node."""
        return int(self.node_id.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class View:
    """One version of the view; version 0 stands for a cluster that has none yet.

    ``voters`` is empty while the configured voters vote. While one of them is being replaced,
    ``voters_before`` must agree as well.
    """

    version: Counter = 0
    term: Counter = 0
    leader: Annotated[str, Meta(max_length=NODE_NAME_BYTES_MAX)] = ""
    nodes: Annotated[Mapping[NodeName, NodeEntry], Meta(max_length=NODES_MAX)] = field(default_factory=dict)
    voters: Annotated[tuple[NodeName, ...], Meta(max_length=NODES_MAX)] = ()
    voters_before: Annotated[tuple[NodeName, ...], Meta(max_length=NODES_MAX)] = ()

    @classmethod
    def from_fields(cls, fields: object) -> View:
        """Returns the view that the plain values of a msgpack map hold.

        Raises:
            InvalidMessage: they hold no view, or one that contradicts itself.
        """
        return message.decode(cls, fields, "view").checked()

    def checked(self) -> View:
        """Returns this view when it does not contradict itself; its types and ranges were checked before.

        Raises:
            InvalidMessage: it contradicts itself.
        """
        problem = _problem(self)
        if problem:
            raise InvalidMessage(f"view {self.version}: {problem}")
        return self

    def as_fields(self) -> dict[str, Any]:
        """Returns plain values; voters only if the view names any, like earlier releases."""
        fields: dict[str, Any] = {
            "version": self.version,
            "term": self.term,
            "leader": self.leader,
            "nodes": {
                name: {"state": entry.state, "node_id": entry.node_id, "since": entry.since}
                for name, entry in self.nodes.items()
            },
        }
        if self.voters:
            fields["voters"] = list(self.voters)
        if self.voters_before:
            fields["voters_before"] = list(self.voters_before)
        return fields

    def up_names(self) -> list[str]:
        """Returns the names of the nodes that are up, sorted."""
        return sorted(name for name, entry in self.nodes.items() if entry.state == UP)

    def is_up(self, name: str) -> bool:
        """Tells whether the node called ``name`` is up."""
        entry = self.nodes.get(name)
        return entry is not None and entry.state == UP

    def among(self, names: Sequence[str]) -> View:
        """Returns the part of the view that is about ``names``.

        While a cluster grows, the view has nodes whose addresses some agents have not learned yet.
        """
        nodes = {name: entry for name, entry in self.nodes.items() if name in names}
        return replace(self, nodes=nodes, leader=self.leader if self.leader in names else "")


EMPTY = View()


def check(key: str, value: object) -> None:
    """Refuses a value that a register of the view must not hold, before a voter votes on it.

    Raises:
        InvalidMessage: there is no such register, or ``value`` is neither a view nor None.
    """
    if key != REGISTER:
        raise InvalidMessage(f"membership has no register {key[:60]!r}")
    if value is not None:
        View.from_fields(value)


def _problem(view: View) -> str:
    """Returns how a view contradicts itself, or ''."""
    for name, entry in view.nodes.items():
        if len(name.encode("utf-8", "replace")) > NODE_NAME_BYTES_MAX:
            return f"the name {name!r} is longer than {NODE_NAME_BYTES_MAX} bytes"
        if entry.since > view.version:
            return f"{name} has been {entry.state} since version {entry.since}, which is in the future"
    if view.leader and not view.is_up(view.leader):
        return f"the leader {view.leader!r} is not up"
    for group in (view.voters, view.voters_before):
        if len(frozenset(group)) != len(group):
            return "a voter votes twice"
    if view.voters_before and not view.voters:
        return "voters_before is set without voters"
    return ""
