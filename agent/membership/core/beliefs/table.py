"""The member table: one record for each node name, merged by precedence.

A record's precedence is (boot, incarnation, state), compared in that order, with alive < suspect < dead <
left. So the records of one name are totally ordered, merging is "keep the greater one", and tables converge
whatever the order or number of deliveries (SWIM section 4.2, extended by the boot counter). Only the node
itself raises its incarnation or boot, which is how it refutes. The digest is the XOR of one checksum for each
record: equal tables have equal digests, and a change costs one checksum, not a pass over the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import mmh3

if TYPE_CHECKING:
    import random


class State(IntEnum):
    """What is believed of a member, in order of precedence."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def label(self) -> str:
        """Returns the word that users and other agents see."""
        return self.name.lower()


LIVE = (State.ALIVE, State.SUSPECT)
# The other agents of a node; their places here are their bits in a record, so append only.
SERVICES = ("hydfs", "rainstorm", "logs")
# Drawing at random and discarding is quicker than listing the whole table as long as most names will do.
DRAWS_PER_NAME = 8


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of one node."""

    name: str
    uuid: str
    boot: int
    incarnation: int
    state: State
    address: str
    port: int
    # Which services of the node live, a bit for each of SERVICES. Only the node itself changes it, together
    # with its incarnation, so records of equal precedence are equal.
    services: int = 0

    @property
    def node_id(self) -> str:
        """Returns the identity of this life of the node: its disk and its boot."""
        return f"{self.uuid}:{self.boot}"

    @property
    def precedence(self) -> tuple[int, int, int]:
        """Returns the sort key that decides which of two records of a name is kept."""
        return (self.boot, self.incarnation, int(self.state))

    def lives(self, service: str) -> bool:
        """Tells whether a service of the node lives, as far as its membership agent knows."""
        return bool(self.services >> SERVICES.index(service) & 1)

    def living_services(self) -> list[str]:
        """Returns the names of the services of the node that live."""
        return [name for name in SERVICES if self.lives(name)]

    def with_state(self, state: State) -> Member:
        """Returns the same record in another state."""
        return replace(self, state=state)

    def same_life(self, other: Member) -> bool:
        """Tells whether both records speak of the same boot and incarnation."""
        return (self.boot, self.incarnation) == (other.boot, other.incarnation)


class Table:
    """The records of all nodes that were ever heard of.

    Nothing that happens on every datagram walks over all records: counts and the names of the dead are kept.
    """

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._names: list[str] = []
        self._dead: dict[str, None] = {}
        self.live_count = 0
        self.suspect_count = 0
        self.digest = 0
        # Grows with every record stored.
        self.changes = 0

    def get(self, name: str) -> Member | None:
        """Returns the record of ``name``, if any."""
        return self._members.get(name)

    def put(self, member: Member) -> None:
        """Stores a record in place of the older one."""
        self.changes += 1
        before = self._members.get(member.name)
        if before is None:
            self._names.append(member.name)
        else:
            self.digest ^= checksum(before)
            self.live_count -= before.state in LIVE
            self.suspect_count -= before.state is State.SUSPECT
        self._members[member.name] = member
        self.digest ^= checksum(member)
        self.live_count += member.state in LIVE
        self.suspect_count += member.state is State.SUSPECT
        if member.state is State.DEAD:
            self._dead[member.name] = None
        else:
            self._dead.pop(member.name, None)

    def supersedes(self, member: Member) -> bool:
        """Tells whether ``member`` takes precedence over what is stored."""
        current = self._members.get(member.name)
        return current is None or member.precedence > current.precedence

    def live(self) -> list[Member]:
        """Returns the records that are alive or suspect, in the order in which they were first heard of."""
        return [member for member in self if member.state in LIVE]

    def dead_names(self) -> list[str]:
        """Returns the names that are believed dead, in the order in which they died."""
        return list(self._dead)

    def sample(self, rng: random.Random, count: int, wanted: Callable[[Member], bool]) -> list[str]:
        """Returns up to ``count`` different names at random, of records for which ``wanted`` holds."""
        chosen: dict[str, None] = {}
        for _ in range(DRAWS_PER_NAME * count):
            name = self._names[int(rng.random() * len(self._names))]
            if name not in chosen and wanted(self._members[name]):
                chosen[name] = None
                if len(chosen) == count:
                    return list(chosen)
        # Few will do: list them all, so that none is missed by bad luck.
        able = [name for name in self._names if name not in chosen and wanted(self._members[name])]
        return [*chosen, *rng.sample(able, min(len(able), count - len(chosen)))]

    def __iter__(self) -> Iterator[Member]:
        # A copy made in one step: other threads look at the table while the core changes it.
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)


def checksum(member: Member) -> int:
    """Returns what a record adds to the digest."""
    # Not a CRC: those are linear, so that two records with the same difference would cancel each other out.
    return mmh3.hash(f"{member.name}\0{member.uuid}\0{member.precedence}", signed=False)
