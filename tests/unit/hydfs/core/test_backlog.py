"""The gate of a rolling upgrade: one node's report of the work that repair still has to do."""

from __future__ import annotations

from agent.hydfs.core.backlog import Backlog, BacklogReport
from agent.hydfs.core.filetable import BlockEntry, FileEntry

UP = ["a", "b", "c", "d"]


def file(*chain: str, state: str = "live") -> FileEntry:
    blocks = tuple(BlockEntry(n, tuple(held), 1, "sealed", 10, 77, "s") for n, held in enumerate(chain))
    return FileEntry("id1", state, blocks=blocks, next_number=9)


def checked(**files: FileEntry) -> Backlog:
    backlog = Backlog("a", 3)
    backlog.pass_begins()
    for name, entry in files.items():
        backlog.looked(name, entry)
    backlog.pass_ends()
    return backlog


def test_nothing_is_known_before_the_first_pass() -> None:
    assert Backlog("a", 3).report(UP, 0) == BacklogReport(checked=False, under_replicated=0, waiting=0)
    assert checked(f=file("abc")).report(UP, 2) == BacklogReport(True, 0, 2)


def test_a_lost_node_shows_at_once_in_the_count_of_the_first_live_holder() -> None:
    backlog = checked(f=file("abc", "bac", "cba", "bcd", "xyz"))
    assert backlog.report(["a", "b", "c"], 0).under_replicated == 0
    assert backlog.report(["a", "c", "d"], 0).under_replicated == 2  # abc and bac; c counts cba
    assert backlog.report(["a", "c"], 0).under_replicated == 0  # no third node that could hold a copy


def test_a_node_that_came_or_went_voids_the_check_and_the_pass_under_way() -> None:
    backlog = checked(f=file("abc"))
    backlog.nodes_changed()
    assert not backlog.report(UP, 0).checked
    backlog.pass_begins()
    backlog.looked("f", file("abc"))
    backlog.nodes_changed()
    backlog.pass_ends()
    assert not backlog.report(UP, 0).checked
    backlog.pass_begins()
    backlog.looked("f", file("abc"))
    backlog.pass_ends()
    assert backlog.report(UP, 0).checked


def test_a_file_that_cannot_be_put_right_waits_until_it_is_or_is_gone() -> None:
    backlog = checked()
    backlog.pass_begins()
    backlog.postponed("f")
    backlog.pass_ends()
    assert backlog.report(UP, 0) == BacklogReport(False, 0, 1)
    backlog.looked("f", file("abc"))
    assert backlog.report(UP, 0) == BacklogReport(True, 0, 0)  # all other files were compared before
    backlog.postponed("f")
    backlog.pass_begins()
    backlog.pass_ends()
    assert backlog.report(UP, 0) == BacklogReport(True, 0, 0)


def test_what_is_deleted_or_still_being_put_is_not_owed() -> None:
    backlog = checked(f=file("abx"), g=file("abx", state="creating"))
    assert backlog.report(["a", "b", "c"], 0).under_replicated == 1
    backlog.looked("f", file("abx", state="deleted"))
    assert backlog.report(["a", "b", "c"], 0).under_replicated == 0


def test_a_comparison_that_could_not_list_all_files_checks_nothing() -> None:
    backlog = checked()
    backlog.pass_begins()
    backlog.incomplete()
    backlog.pass_ends()
    assert not backlog.report(UP, 0).checked
