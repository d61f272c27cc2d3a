"""A member: the knowledge about one node, and the states it can be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

StateName = Literal["alive", "suspect", "dead", "left"]


class State(IntEnum):
    """What a node believes about a member, in order of precedence."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def label(self) -> StateName:
        """Returns the word that users and other agents see."""
        return _LABELS[self]


_LABELS: Mapping[State, StateName] = {
    State.ALIVE: "alive",
    State.SUSPECT: "suspect",
    State.DEAD: "dead",
    State.LEFT: "left",
}
LIVE = (State.ALIVE, State.SUSPECT)
# The other agents of a node. A place in this tuple is a bit in a record: append only.
SERVICES = ("hydfs", "rainstorm", "logs")


@dataclass(frozen=True, slots=True)
class Member:
    """The knowledge about one node."""

    name: str
    uuid: str
    boot: int
    incarnation: int
    state: State
    address: str
    port: int
    # Which services of the node are alive, a bit for each of SERVICES. Only the node itself changes this,
    # together with its incarnation, so records of equal precedence are equal.
    services: int = 0

    @property
    def node_id(self) -> str:
        """Returns the identity of the node during this boot: its disk and its boot counter."""
        return f"{self.uuid}:{self.boot}"

    @property
    def precedence(self) -> tuple[int, int, int]:
        """Returns the sort key: of two records with one name, the one with the greater key is kept."""
        return (self.boot, self.incarnation, int(self.state))

    def lives(self, service: str) -> bool:
        """Tells whether a service of the node is alive, as far as its membership agent knows."""
        return bool(self.services >> SERVICES.index(service) & 1)

    def living_services(self) -> list[str]:
        """Returns the names of the services of the node that are alive."""
        return [name for name in SERVICES if self.lives(name)]

    def with_state(self, state: State) -> Member:
        """Returns the same record in another state."""
        return replace(self, state=state)

    def same_life(self, other: Member) -> bool:
        """Tells whether both records have the same boot and incarnation."""
        return (self.boot, self.incarnation) == (other.boot, other.incarnation)
