"""The files and folders of a simulated disk, each as programs see it and as a power failure leaves it.

A write changes the bytes that programs read, and waits in ``pending`` until a sync, or the kernel on its own,
carries it to the medium. After a power failure a file holds its durable bytes and none, all or a part of the
waiting changes. The same holds for the names in a folder. Beyond that, file systems differ (Pillai et al.,
OSDI 2014), so this one promises only what POSIX does: a name is durable once its folder was synced, changes
of one name keep their order, and a change of another name may survive without an earlier one. A rename is one
change, never half of one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

PAGE_BYTES = 4096
SECTOR_BYTES = 512
# The kernel writes back on its own. This bounds the loss of a file that is never synced, and our memory.
PENDING_WRITES_MAX = 1024


@dataclass(slots=True)
class Write:
    """Bytes that were written at an offset; beyond the end of the file zeros fill the gap."""

    offset: int
    data: bytes

    def apply(self, to: bytearray) -> None:
        """Writes into ``to``."""
        if self.offset > len(to):
            to.extend(bytes(self.offset - len(to)))
        to[self.offset : self.offset + len(self.data)] = self.data


@dataclass(slots=True)
class Resize:
    """The size of a file was set."""

    size: int

    def apply(self, to: bytearray) -> None:
        """Cuts ``to`` or extends it with zeros."""
        del to[self.size :]
        to.extend(bytes(self.size - len(to)))


class File:
    """A file: programs read ``data``, and ``durable`` is on the medium."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[Write | Resize] = []
        self.names = 0
        self.handles = 0
        self.modified_at = 0.0
        self.lock_holder: object = None

    def change(self, made: Write | Resize) -> None:
        """Changes the bytes that programs read."""
        made.apply(self.data)
        self.pending.append(made)
        if len(self.pending) > PENDING_WRITES_MAX:
            self.sync(self.pending[: PENDING_WRITES_MAX // 2])

    def sync(self, changes: Iterable[Write | Resize] | None = None) -> None:
        """Carries ``changes`` (the oldest ones), or all waiting changes, to the medium."""
        if changes is None:
            for change in self.pending:
                change.apply(self.durable)
            self.pending.clear()
            return
        chosen = list(changes)
        waiting = {id(each) for each in self.pending}
        for change in chosen:
            if id(change) in waiting:
                change.apply(self.durable)
                del self.pending[0]

    def fail_sync(self, rng: random.Random) -> None:
        """Forgets the waiting changes, as Linux does after a failed sync.

        Programs may or may not still read them from the page cache: file systems differ.
        """
        self.pending.clear()
        if rng.random() < 0.5:
            self.data = bytearray(self.durable)

    def crash(self, rng: random.Random, how: str, *, holes: bool) -> None:
        """Ends the waiting changes like a power failure; ``nothing``, ``everything`` or ``some`` survives."""
        if how == "some":
            how = rng.choice(("nothing", "everything", "torn", "holes" if holes else "torn"))
        if how == "everything":
            self.sync()
        elif how == "torn":
            self._tear(rng)
        elif how == "holes":
            self._keep_sectors(rng)
        self.pending.clear()
        self.data = bytearray(self.durable)

    def _tear(self, rng: random.Random) -> None:
        """Keeps the first changes, and a part of the next one."""
        if not self.pending:
            return
        whole = rng.randrange(len(self.pending))
        torn = self.pending[whole]
        self.sync(self.pending[:whole])
        if isinstance(torn, Write):
            kept = rng.randrange(len(torn.data) + 1)
            Write(torn.offset, torn.data[:kept]).apply(self.durable)
            if rng.random() < 0.3:  # the size was durable before the data
                end = torn.offset + rng.randrange(kept, len(torn.data) + 1)
                Resize(max(len(self.durable), end)).apply(self.durable)

    def _keep_sectors(self, rng: random.Random) -> None:
        """Keeps randomly chosen sectors: a later one may survive without an earlier one."""
        for change in self.pending:
            if isinstance(change, Resize):
                change.apply(self.durable)
                continue
            at, end = change.offset, change.offset + len(change.data)
            while at < end:
                behind = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
                if rng.random() < 0.5:
                    part = change.data[at - change.offset : behind - change.offset]
                    Write(at, part).apply(self.durable)
                at = behind


class Folder:
    """A folder: programs see the names in ``entries``, and those in ``durable`` are on the medium."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.entries: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}


Inode = File | Folder


@dataclass(slots=True, eq=False)
class NameChange:
    """One atomic change of names: each edit gives a name in a folder to an inode, or to none."""

    edits: tuple[tuple[Folder, str, Inode | None], ...]

    def names(self) -> set[tuple[int, str]]:
        """Returns the names that it touches."""
        return {(folder.number, name) for folder, name, _ in self.edits}

    def make_durable(self) -> None:
        """Carries it to the medium."""
        for folder, name, inode in self.edits:
            if inode is None:
                folder.durable.pop(name, None)
            else:
                folder.durable[name] = inode


@dataclass(slots=True)
class Names:
    """The changes of names that wait for a sync, oldest first."""

    pending: list[NameChange] = field(default_factory=list)

    def change(self, *edits: tuple[Folder, str, Inode | None]) -> None:
        """Changes names as programs see them."""
        for folder, name, inode in edits:
            before = folder.entries.pop(name, None)
            if isinstance(before, File):
                before.names -= 1
            if inode is not None:
                folder.entries[name] = inode
                if isinstance(inode, File):
                    inode.names += 1
        self.pending.append(NameChange(edits))

    def sync(self, folder: Folder) -> None:
        """Makes the names in a folder durable, and the changes that these depend on."""
        needed: set[tuple[int, str]] = set()
        chosen = []
        for change in reversed(self.pending):
            touched = change.names()
            if touched & needed or any(number == folder.number for number, _ in touched):
                needed |= touched
                chosen.append(change)
        for change in reversed(chosen):
            change.make_durable()
        done = {id(change) for change in chosen}
        self.pending = [change for change in self.pending if id(change) not in done]

    def crash(self, rng: random.Random, how: str) -> None:
        """Keeps ``nothing``, ``everything`` or ``some`` of the waiting changes."""
        if how == "some":
            how = rng.choice(("nothing", "everything", "first", "any"))
        count = {"nothing": 0, "first": rng.randint(0, len(self.pending))}.get(how, len(self.pending))
        lost: set[tuple[int, str]] = set()
        for change in self.pending[:count]:
            touched = change.names()
            if touched & lost or (how == "any" and rng.random() < 0.5):
                lost |= touched
            else:
                change.make_durable()
        self.pending.clear()
