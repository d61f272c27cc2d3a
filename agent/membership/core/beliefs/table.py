"""The member table: one record for each node name, merged by precedence.

A record's precedence is (boot, incarnation, state), compared in that order, with alive < suspect < dead <
left. So the records of one name are totally ordered, a merge keeps the greater one, and tables converge
whatever the order and number of deliveries (SWIM section 4.2, extended by the boot counter). Only the node
itself raises its incarnation or boot, which is how it refutes. The digest is the XOR of one checksum for each
record: equal tables have equal digests, and a change costs one checksum, not a pass over the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import mmh3

from agent.membership.member import LIVE, Member, State

if TYPE_CHECKING:
    import random


# Drawing at random and discarding is quicker than listing the whole table, as long as most names qualify.
DRAWS_PER_NAME = 8


class Table:
    """The records of all nodes ever heard of.

    No work for a single datagram iterates over all records: the table keeps counts and the names of the dead.
    """

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._names: list[str] = []
        self._dead: dict[str, None] = {}
        self.live_count = 0
        self.suspect_count = 0
        self.digest = 0
        # Grows by one with every record stored.
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
        """Returns the records that are alive or suspect, in the order first heard."""
        return [member for member in self if member.state in LIVE]

    def dead_names(self) -> list[str]:
        """Returns the names of the members that are believed dead, in the order of their deaths."""
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
        # Few qualify: list them all, so that chance does not miss one.
        able = [name for name in self._names if name not in chosen and wanted(self._members[name])]
        return [*chosen, *rng.sample(able, min(len(able), count - len(chosen)))]

    def __iter__(self) -> Iterator[Member]:
        # A copy made in one step: other threads read the table while the core changes it.
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)


def checksum(member: Member) -> int:
    """Returns what a record adds to the digest."""
    # Not a CRC: CRCs are linear, so two records that differ in the same way would cancel each other out.
    return mmh3.hash(f"{member.name}\0{member.uuid}\0{member.precedence}", signed=False)
