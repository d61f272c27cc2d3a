"""The actions that give every sealed block all of its copies, the blocks with the fewest copies first.

These are pure functions on a file's entry. The first live holder of a block (in the order of the table) is
responsible for it, so exactly one node acts while views agree; when two act, the second finds the work done.
Copies are made only from a holder that the file table names. A copy is dropped only on proof: the file table
(a majority read) says that the file was deleted or continues without this block, or names enough other live
holders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.hydfs.core import placement
from agent.hydfs.core.block import OPEN, SEALED, BlockMeta
from agent.hydfs.core.filetable import CREATING, DELETED, BlockEntry, FileEntry


@dataclass(frozen=True, slots=True)
class Push:
    """Copy a block to ``targets``; afterwards the table forgets ``drop``."""

    block: BlockEntry
    copies: int
    targets: tuple[str, ...]
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch a block that this node should have according to the file table."""

    block: BlockEntry


@dataclass(frozen=True, slots=True)
class Certify:
    """Make the local copy agree with the table."""

    block: BlockEntry


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the file table that this node has a good copy."""

    block: BlockEntry


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove the local copy of block ``number``."""

    number: int


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Seal a block whose coordinator is down."""

    block: BlockEntry


LocalAction = Pull | Certify | Announce | Drop | TakeOver


def pushes(entry: FileEntry, up: Sequence[str], me: str, wanted: int) -> list[Push]:
    """Returns the copies that this node has to make, fewest copies first."""
    found = []
    for block in entry.blocks:
        alive = [node for node in block.replicas if node in up]
        if block.state != SEALED or not alive or alive[0] != me:
            continue
        missing = min(wanted, len(up)) - len(alive)
        proposed = placement.order(entry.file_id, block.number, up)
        targets = [node for node in proposed if node not in block.replicas][: max(0, missing)]
        dead = tuple(node for node in block.replicas if node not in up)
        enough = len(alive) + len(targets) >= wanted
        if targets or (dead and enough):
            found.append(Push(block, len(alive), tuple(targets), dead if enough else ()))
    return sorted(found, key=lambda push: (push.copies, push.block.number))


def local_actions(
    entry: FileEntry,
    metas: Sequence[BlockMeta],
    up: Sequence[str],
    me: str,
    wanted: int,
    coordinated: Sequence[int],
) -> list[LocalAction]:
    """Returns what this node has to do about its own copies ``metas`` of one file name.

    ``coordinated`` are the numbers of the blocks that this process coordinates now.
    """
    actions: list[LocalAction] = []
    held = []
    for meta in metas:
        if meta.key[0] != entry.file_id or entry.state == DELETED:
            continue  # copies of another file id are dropped, see obsolete_copies()
        held.append(meta.key[1])
        if entry.state == CREATING:
            continue
        block = entry.block(meta.key[1])
        if block is None:
            if meta.key[1] < entry.next_number:
                actions.append(Drop(meta.key[1]))
        elif block.state == SEALED:
            actions += _about_sealed(block, meta, up, me, wanted)
    for block in entry.blocks:
        if block.state == OPEN and _has_to_seal(block, up, me, coordinated):
            actions.append(TakeOver(block))
        if block.state == SEALED and me in block.replicas and block.number not in held:
            actions.append(Pull(block))
    return actions


def is_thin(
    block: BlockEntry, coordinated: Sequence[int], up: Sequence[str], gone: Sequence[str], wanted: int
) -> bool:
    """Tells whether this node has to seal an open block because its successor would get more copies.

    ``gone`` are the nodes of ``up`` whose store is down: no block that is opened now gets a copy there.
    """
    return block.number in coordinated and len(block.replicas) < min(wanted, len(up) - len(gone))


def obsolete_copies(entry: FileEntry, metas: Sequence[BlockMeta]) -> list[BlockMeta]:
    """Returns the copies that belong to a deleted or replaced file of the same name."""
    return [meta for meta in metas if meta.key[0] != entry.file_id or entry.state == DELETED]


def _about_sealed(
    block: BlockEntry, meta: BlockMeta, up: Sequence[str], me: str, wanted: int
) -> list[LocalAction]:
    if meta.state != SEALED or (meta.length, meta.crc) != (block.length, block.crc):
        return [Certify(block)]
    if me in block.replicas:
        return []
    alive = [node for node in block.replicas if node in up]
    return [Drop(block.number)] if len(alive) >= wanted else [Announce(block)]


def _has_to_seal(block: BlockEntry, up: Sequence[str], me: str, coordinated: Sequence[int]) -> bool:
    coordinator = block.replicas[0]
    if coordinator == me:
        return block.number not in coordinated
    alive = [node for node in block.replicas if node in up]
    return coordinator not in up and bool(alive) and alive[0] == me
