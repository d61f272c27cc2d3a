"""Which node copies which block, and which copies may be dropped."""

from __future__ import annotations

from agent.hydfs.core import repair
from agent.hydfs.core.block import BlockMeta
from agent.hydfs.core.filetable import BlockEntry, FileEntry

UP = ["a", "b", "c", "d", "e"]


def block(number: int, replicas: str, state: str = "sealed") -> BlockEntry:
    return BlockEntry(number, tuple(replicas), 1, state, 10, 77, "s")


def file(*blocks: BlockEntry, state: str = "live") -> FileEntry:
    return FileEntry("id1", state, blocks=blocks, next_number=9)


def meta(number: int, *, state: str = "sealed", crc: int = 77, file_id: str = "id1") -> BlockMeta:
    return BlockMeta((file_id, number), "f", "s", 10, crc, state)


def test_the_first_live_holder_copies_fewest_copies_first() -> None:
    entry = file(block(0, "abc"), block(1, "xab"), block(2, "xya"))
    found = repair.pushes(entry, UP, "a", 3)
    assert [(push.block.number, push.copies, len(push.targets)) for push in found] == [(2, 1, 2), (1, 2, 1)]
    assert found[0].drop == ("x", "y")
    assert not set(found[0].targets) & {"a", "x", "y"}
    assert repair.pushes(entry, UP, "b", 3) == []


def test_fewer_nodes_than_copies_make_fewer_copies_and_forget_nobody() -> None:
    assert repair.pushes(file(block(0, "abx")), ["a", "b"], "a", 3) == []


def test_a_block_without_a_live_holder_is_left_alone() -> None:
    assert repair.pushes(file(block(0, "xyz")), UP, "a", 3) == []


def test_local_copies_follow_the_table() -> None:
    entry = file(block(0, "abc"), block(1, "bcd"), block(2, "bcx"), block(3, "abc"), block(4, "abc"))
    metas = [meta(0, state="promised"), meta(1), meta(2), meta(3), meta(7)]
    found = repair.local_actions(entry, metas, UP, "a", 3, [])
    assert found == [
        repair.Certify(entry.blocks[0]),
        repair.Drop(1),
        repair.Announce(entry.blocks[2]),
        repair.Drop(7),
        repair.Pull(entry.blocks[4]),
    ]


def test_nothing_of_a_put_under_way_is_touched() -> None:
    assert repair.local_actions(file(state="creating"), [meta(0)], UP, "a", 3, []) == []


def test_copies_of_a_deleted_or_replaced_file_are_strangers() -> None:
    old = meta(0, file_id="id0")
    assert repair.obsolete_copies(file(block(0, "abc")), [old, meta(0)]) == [old]
    assert repair.obsolete_copies(file(state="deleted"), [meta(0)]) == [meta(0)]


def test_an_open_block_is_sealed_by_its_restarted_coordinator_or_the_first_survivor() -> None:
    entry = file(block(0, "abc", "open"))
    assert repair.local_actions(entry, [], UP, "a", 3, [0]) == []
    assert repair.local_actions(entry, [], UP, "a", 3, []) == [repair.TakeOver(entry.blocks[0])]
    assert repair.local_actions(entry, [], UP, "b", 3, []) == []
    lost = ["b", "c", "d", "e"]
    assert repair.local_actions(entry, [], lost, "b", 3, []) == [repair.TakeOver(entry.blocks[0])]
    assert repair.local_actions(entry, [], lost, "c", 3, []) == []


def test_an_open_block_is_thin_only_while_a_new_one_gets_more_copies() -> None:
    """Otherwise it would be sealed, and the next one would be just as thin, again and again."""
    thin = block(4, "ab", "open")
    assert repair.is_thin(thin, [4], ["a", "b", "c"], [], 3)
    assert not repair.is_thin(thin, [4], ["a", "b", "c"], ["c"], 3)
    assert not repair.is_thin(thin, [4], UP, [], 2)
    assert not repair.is_thin(thin, [3], UP, [], 3), "another node coordinates it"


def test_copies_that_the_table_may_still_name_are_kept() -> None:
    """A block that is not in the table yet, one that belongs here, and one of another file."""
    entry = file(block(0, "abc"))
    assert repair.local_actions(entry, [meta(0), meta(9)], UP, "a", 3, []) == []
    assert repair.local_actions(entry, [meta(0, file_id="id0"), meta(0)], UP, "a", 3, []) == []


def test_a_lost_holder_is_forgotten_only_when_there_are_enough_others() -> None:
    entry = file(block(0, "abcx"))
    (push,) = repair.pushes(entry, UP, "a", 3)
    assert (push.targets, push.drop) == ((), ("x",))


def test_a_lost_holder_stays_named_while_its_copy_may_be_needed() -> None:
    """There are too few nodes for all copies, and the lost node may come back with its copy."""
    (push,) = repair.pushes(file(block(0, "ax")), ["a", "b"], "a", 3)
    assert (push.targets, push.drop) == (("b",), ())


def test_a_copy_that_differs_from_the_table_is_certified_before_it_counts() -> None:
    entry = file(block(0, "abc"), block(1, "bcx"))
    found = repair.local_actions(entry, [meta(0, crc=1), meta(1, crc=1)], UP, "a", 3, [])
    assert found == [repair.Certify(entry.blocks[0]), repair.Certify(entry.blocks[1])]
