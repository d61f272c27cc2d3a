"""How a gateway finds the right node."""

from __future__ import annotations

from agent.hydfs.core.errors import MOVED, NOT_COORDINATOR
from agent.hydfs.core.filetable import BlockEntry, FileEntry
from agent.hydfs.core.route import AskCoordinator, AskSeal, ReadFile, Route, Stop

NODES = ["a", "b", "c", "d", "e"]


def entry(*, is_open: bool = True, session: str = "s1") -> FileEntry:
    block = BlockEntry(3, ("a", "b", "c"), 1, "open", 0, 0, session)
    return FileEntry("id1", "live", blocks=(block,) if is_open else (), next_number=4)


def test_the_coordinator_is_asked() -> None:
    assert Route(NODES).found(entry()) == AskCoordinator("a", 3)


def test_without_an_open_block_a_node_of_the_ring_opens_one() -> None:
    route = Route(NODES)
    first = route.found(entry(is_open=False))
    assert isinstance(first, AskCoordinator)
    assert first.number is None
    assert route.failed(first, entry(is_open=False), "UNREACHABLE", "", ()) == ReadFile(0.05)
    second = route.found(entry(is_open=False))
    assert isinstance(second, AskCoordinator)
    assert second.node != first.node
    assert second.avoid == (first.node,)


def test_an_unreachable_coordinator_is_sealed_by_the_next_replica_that_answers() -> None:
    route = Route(NODES)
    step = route.failed(AskCoordinator("a", 3), entry(), "CONNECTION_LOST", "", ())
    assert step == AskSeal("b", 3)
    assert route.failed(step, entry(), "UNREACHABLE", "", ()) == AskSeal("c", 3)
    assert isinstance(route.failed(AskSeal("c", 3), entry(), "UNREACHABLE", "", ()), ReadFile)
    assert route.found(entry()) == AskCoordinator("a", 3)  # no node answered: begin again
    assert route.sealed() == ReadFile()


def test_a_coordinator_that_forgot_its_block_is_sealed_after_a_second_look() -> None:
    route = Route(NODES)
    assert route.failed(AskCoordinator("a", 3), entry(), NOT_COORDINATOR, "", ()) == ReadFile()
    assert route.found(entry()) == AskSeal("b", 3)
    assert Route(NODES, _refused=(3, "s1")).found(entry(session="s2")) == AskCoordinator("a", 3)


def test_seals_that_change_nothing_are_repeated_with_a_pause() -> None:
    route = Route(NODES)
    steps = [route.sealed() for _ in range(5)]
    assert steps[:3] == [ReadFile()] * 3
    assert all(isinstance(step, ReadFile) and step.pause_s > 0 for step in steps[3:])


def test_a_moved_append_follows_at_once_and_avoids_the_failed() -> None:
    route = Route(NODES)
    assert route.failed(AskCoordinator("a", 3), entry(), MOVED, "UNREACHABLE", ["b"]) == ReadFile()
    assert "b" in route.lost


def test_full_nodes_end_in_one_clear_error() -> None:
    route = Route(NODES)
    steps = [route.failed(AskCoordinator("a", 3), entry(), MOVED, "DISK_FULL", ["a"]) for _ in range(6)]
    assert isinstance(steps[-2], ReadFile)
    assert isinstance(steps[-1], Stop)
    assert steps[-1].code == "DISK_FULL"


def test_an_error_of_the_request_itself_ends_the_way() -> None:
    assert Route(NODES).failed(AskCoordinator("a", 3), entry(), "CONFLICT", "", ()) == Stop("CONFLICT", "")
