"""The changes that a file's register allows, and those that it refuses."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Fenced,
    InvalidMessage,
    NotFound,
)
from agent.common.failure import Failure
from agent.hydfs.core import filetable
from agent.hydfs.core.block import WRITERS_MAX
from agent.hydfs.core.filetable import (
    BlockEntry,
    FileEntry,
    Reservation,
    from_value,
    needed_acks,
    needed_promises,
    to_value,
)


def made(value: Any) -> FileEntry:
    entry = from_value(value)
    assert entry is not None
    return entry


def opened(value: Any, session: str = "s1", nodes: tuple[str, ...] = ("a", "b", "c")) -> Any:
    return filetable.open_next("f", "id1", nodes, 1, session)(value)


def created() -> Any:
    return filetable.create("f", "id1", "all")(None)


def test_create_is_exclusive_and_may_be_applied_twice() -> None:
    value = created()
    assert filetable.create("f", "id1", "all")(value) == value
    with pytest.raises(AlreadyExists):
        filetable.create("f", "id2", "all")(value)


def test_delete_keeps_the_id_and_lets_the_name_be_used_again() -> None:
    value = filetable.remove("f", "id1")(created())
    assert (made(value).state, made(value).file_id) == ("deleted", "id1")
    with pytest.raises(NotFound):
        filetable.live("f", value)
    with pytest.raises(NotFound):
        filetable.open_next("f", "id1", ["a"], 1, "s")(value)
    again = filetable.create("f", "id2", "all")(value)
    with pytest.raises(NotFound):
        filetable.remove("f", "id1")(again)
    with pytest.raises(NotFound):
        filetable.open_next("f", "id1", ["a"], 1, "s")(again)


def test_a_file_with_an_open_block_is_not_deleted() -> None:
    with pytest.raises(Conflict):
        filetable.remove("f", "id1")(opened(created()))


def test_only_one_block_is_open_and_the_first_opener_wins() -> None:
    value = opened(created(), "s1")
    assert opened(value, "s2") == value
    block = made(value).open_block
    assert block is not None
    assert (block.session, block.replicas, block.number) == ("s1", ("a", "b", "c"), 0)


def test_seal_fixes_the_length_once_and_carries_the_writers() -> None:
    value = opened(created())
    sealed = filetable.seal("f", "id1", 0, 10, 99, ["a", "b"], {"w": (3, 5, 5)})(value)
    assert filetable.seal("f", "id1", 0, 20, 98, ["c"], {"w": (9, 9, 9)})(sealed) == sealed
    entry = made(opened(sealed, "s2"))
    assert entry.sealed_length == 10
    assert entry.writers == {"w": (3, 5, 5)}
    assert [block.number for block in entry.blocks] == [0, 1]
    assert entry.blocks[0].replicas == ("a", "b")


def test_an_empty_block_leaves_the_chain_and_its_number_is_not_used_again() -> None:
    value = filetable.seal("f", "id1", 0, 0, 0, [], {})(opened(created()))
    assert made(value).blocks == ()
    block = made(opened(value, "s2")).open_block
    assert block is not None
    assert block.number == 1


def test_writers_are_bounded_and_the_oldest_go_first() -> None:
    value = opened(created())
    many = {f"w{index}": (1, 0, 1) for index in range(WRITERS_MAX + 5)}
    entry = made(filetable.seal("f", "id1", 0, 10, 1, ["a"], many)(value))
    assert entry.writers is not None
    assert len(entry.writers) == WRITERS_MAX
    assert "w0" not in entry.writers
    assert f"w{WRITERS_MAX + 4}" in entry.writers


def test_a_put_is_invisible_until_published_and_can_be_given_up() -> None:
    reserved = filetable.create("f", "p1", "all", state="creating", owner="a")(None)
    with pytest.raises(NotFound):
        filetable.live("f", reserved)
    with pytest.raises(AlreadyExists):
        filetable.create("f", "p2", "all", state="creating")(reserved)
    blocks = [BlockEntry(0, ("a", "b", "c"), 1, "sealed", 5, 7, "")]
    published = filetable.publish("f", "p1", blocks)(reserved)
    assert made(published).sealed_length == 5
    assert filetable.publish("f", "p1", blocks)(published) == published
    again = filetable.create("f", "p1", "all", state="creating", owner="a")
    assert again(reserved) == reserved
    for ended in (published, filetable.abandon("f", "p1")(reserved)):
        with pytest.raises(Conflict, match="has ended already"):
            again(ended)
    taken = filetable.create("f", "p2", "all", state="creating", instead_of="p1")(reserved)
    with pytest.raises(Conflict):
        filetable.publish("f", "p1", blocks)(taken)


def test_a_file_is_described_as_its_put_left_it_whatever_was_appended() -> None:
    blocks = [BlockEntry(number, ("a", "b", "c"), 1, "sealed", 5, 7, "") for number in range(2)]
    value = filetable.publish("f", "p1", blocks)(filetable.create("f", "p1", "all", state="creating")(None))
    for change in (
        filetable.open_next("f", "p1", ["a", "b"], 1, "s"),
        filetable.seal("f", "p1", 2, 5, 1, ["a"], {}),
    ):
        value = change(value)
        found = filetable.as_put("f", value, "p1", 10)
        assert found is not None
        assert found.blocks == tuple(blocks)
    for file_id, length in (("p2", 10), ("p1", 7), ("p1", 20)):
        assert filetable.as_put("f", value, file_id, length) is None
    assert filetable.as_put("f", filetable.remove("f", "p1")(value), "p1", 10) is None
    assert filetable.as_put("f", None, "p1", 0) is None


def test_replicas_change_only_on_sealed_blocks_and_never_to_none() -> None:
    sealed = filetable.seal("f", "id1", 0, 10, 99, ["a", "b"], {})(opened(created()))
    moved = filetable.set_replicas("f", "id1", 0, add=["d"], drop=["b"])(sealed)
    assert made(moved).blocks[0].replicas == ("a", "d")
    with pytest.raises(Conflict):
        filetable.set_replicas("f", "id1", 0, drop=["a", "b"])(sealed)
    with pytest.raises(Fenced):
        filetable.set_replicas("f", "id1", 0, add=["d"])(opened(created()))


@pytest.mark.parametrize(("ack", "replicas"), [("all", 1), ("all", 3), ("quorum", 3), ("quorum", 5)])
def test_promises_meet_every_acknowledging_set(ack: str, replicas: int) -> None:
    assert needed_acks(ack, replicas) + needed_promises(ack, replicas) == replicas + 1


GOOD: dict[str, Any] = {
    "file_id": "id1",
    "state": "live",
    "ack": "all",
    "owner": "",
    "next": 2,
    "blocks": [[0, ["a", "b"], 1, "sealed", 10, 99, "s0"], [1, ["b", "a"], 1, "open", 0, 0, "s1"]],
    "writers": {"w": [3, 5, 5]},
}


def test_the_value_of_a_register_is_plain_and_stays_as_it_was() -> None:
    assert msgpack.unpackb(msgpack.packb(to_value(made(GOOD)))) == GOOD
    assert from_value(None) is None


def test_a_field_of_a_newer_release_is_ignored_and_one_that_is_missing_has_a_default() -> None:
    newer = {**GOOD, "later": 1, "blocks": [[*block, "later"] for block in GOOD["blocks"]]}
    assert made(newer) == made(GOOD)
    assert made({"file_id": "id1", "state": "live"}) == FileEntry("id1", "live")


BAD: list[Any] = [
    "a text",
    7,
    [],
    {},
    {"file_id": "../up", "state": "live"},
    {"file_id": "id1", "state": "melted"},
    {**GOOD, "ack": "none"},
    {**GOOD, "state": "deleted"},
    {**GOOD, "next": 1},
    {**GOOD, "next": -1},
    {**GOOD, "blocks": [[0, ["a"], 1, "sealed", 0, 0, "s"]]},
    {**GOOD, "blocks": [[0, [], 1, "sealed", 5, 0, "s"]]},
    {**GOOD, "blocks": [[0, ["a", "a"], 1, "sealed", 5, 0, "s"]]},
    {**GOOD, "blocks": [[0, ["a"], 1, "open", 5, 0, "s"]]},
    {**GOOD, "blocks": [[0, ["a"], 1, "open", 0, 0, "s"], [1, ["a"], 1, "sealed", 5, 0, "s"]]},
    {**GOOD, "blocks": [[1, ["a"], 1, "sealed", 5, 0, "s"], [0, ["a"], 1, "sealed", 5, 0, "s"]]},
    {**GOOD, "blocks": [[0, ["a"], 1, "sealed", 5]]},
    {**GOOD, "writers": {"w": [1, 2]}},
    {**GOOD, "writers": {"w": [float("nan"), 2, 3]}},
]


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_entry_is_refused_before_a_vote_and_named_when_it_is_read(value: Any) -> None:
    with pytest.raises(InvalidMessage):
        filetable.check("f", value)
    with pytest.raises(Corrupt, match="'some/file'"):
        filetable.live("some/file", value)
    with pytest.raises(Corrupt):
        filetable.create("f", "id2", "all")(value)


def test_a_vote_is_for_a_valid_name_with_a_valid_entry_or_none() -> None:
    filetable.check("a/b", GOOD)
    filetable.check("a/b", None)
    for key in ("", "..", "a//b", "x" * 256):
        with pytest.raises(InvalidMessage):
            filetable.check(key, GOOD)


def test_every_change_makes_a_value_that_a_voter_accepts() -> None:
    value = created()
    for change in (
        filetable.open_next("f", "id1", ["a", "b"], 1, "s1"),
        filetable.seal("f", "id1", 0, 10, 99, ["a", "b"], {"w": (3, 5, 5)}),
        filetable.set_replicas("f", "id1", 0, add=["c"], drop=["a"]),
        filetable.open_next("f", "id1", ["a"], 1, "s2"),
        filetable.seal("f", "id1", 1, 0, 0, ["a"], {}),
        filetable.remove("f", "id1"),
        filetable.create("f", "id2", "quorum", state="creating", owner="a"),
        filetable.publish("f", "id2", [BlockEntry(0, ("a",), 1, "sealed", 5, 7, "")]),
    ):
        value = msgpack.unpackb(msgpack.packb(change(value)))
        filetable.check("f", value)


def test_a_reservation_says_whose_it_is() -> None:
    reserved = filetable.create("f", "p1", "all", state="creating", owner="a")(None)
    with pytest.raises(AlreadyExists) as refused:
        filetable.create("f", "p2", "all")(reserved)
    assert Reservation.of(Failure.of(refused.value).error()) == Reservation("p1", "creating", "a")
    assert Reservation.of(AlreadyExists("x", details={"file_id": 7})) is None


def test_changes_refuse_a_file_that_was_replaced() -> None:
    value = created()
    with pytest.raises(NotFound):
        filetable.seal("f", "id0", 0, 5, 5, ["a"], {})(value)
    with pytest.raises(NotFound):
        filetable.remove("f", "id0")(None)
    with pytest.raises(Fenced):
        filetable.set_replicas("f", "id1", 7, add=["a"])(value)
    removed = filetable.remove("f", "id1")(value)
    assert filetable.remove("f", "id1")(removed) == removed
    with pytest.raises(Conflict):
        filetable.publish("f", "id0", [])(value)


@pytest.mark.parametrize("replicas", range(1, 8))
def test_a_quorum_is_more_than_half_of_the_replicas(replicas: int) -> None:
    assert 2 * needed_acks("quorum", replicas) > replicas
    assert needed_acks("all", replicas) == replicas


def test_a_seal_of_an_earlier_block_leaves_the_open_one_alone() -> None:
    sealed = filetable.seal("f", "id1", 0, 10, 5, ["a"], {})(opened(created()))
    value = opened(sealed, "s2")
    assert filetable.seal("f", "id1", 0, 99, 6, ["b"], {})(value) == value


def test_a_put_that_was_given_up_stays_deleted() -> None:
    reserved = filetable.create("f", "id1", "all", state=filetable.CREATING, owner="a")(None)
    aborted = filetable.remove("f", "id1")(reserved)
    with pytest.raises(Conflict):
        filetable.publish("f", "id1", [])(aborted)
