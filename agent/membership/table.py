"""The member table: one record for each node name, merged by precedence.

A record's precedence is (boot, incarnation, state), compared in that order, with alive < suspect < dead <
left. So the records of one name are totally ordered, merging is "keep the greater one", and tables converge
whatever the order or number of deliveries (SWIM section 4.2, extended by the boot counter). Only the node
itself raises its incarnation or boot, which is how it refutes. The digest is the XOR of one checksum for each
record: equal tables have equal digests, and a change costs one checksum, not a pass over the table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum


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

    @property
    def node_id(self) -> str:
        """Returns the identity of this life of the node: its disk and its boot."""
        return f"{self.uuid}:{self.boot}"

    @property
    def precedence(self) -> tuple[int, int, int]:
        """Returns the sort key that decides which of two records of a name is kept."""
        return (self.boot, self.incarnation, int(self.state))

    def with_state(self, state: State) -> Member:
        """Returns the same record in another state."""
        return replace(self, state=state)

    def same_life(self, other: Member) -> bool:
        """Tells whether both records speak of the same boot and incarnation."""
        return (self.boot, self.incarnation) == (other.boot, other.incarnation)


class Table:
    """The records of all nodes that were ever heard of."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self.digest = 0

    def get(self, name: str) -> Member | None:
        """Returns the record of ``name``, if any."""
        return self._members.get(name)

    def put(self, member: Member) -> None:
        """Stores a record in place of the older one."""
        before = self._members.get(member.name)
        if before is not None:
            self.digest ^= _checksum(before)
        self._members[member.name] = member
        self.digest ^= _checksum(member)

    def supersedes(self, member: Member) -> bool:
        """Tells whether ``member`` takes precedence over what is stored."""
        current = self._members.get(member.name)
        return current is None or member.precedence > current.precedence

    def live(self) -> list[Member]:
        """Returns the records that are alive or suspect, in the order in which they were first heard of."""
        return [member for member in self if member.state in LIVE]

    def __iter__(self) -> Iterator[Member]:
        # A copy made in one step: other threads look at the table while the core changes it.
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)


def _checksum(member: Member) -> int:
    return zlib.crc32(f"{member.name}\0{member.uuid}\0{member.precedence}".encode())
