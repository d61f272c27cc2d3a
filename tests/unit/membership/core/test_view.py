"""Changes of the view: joins, evictions, new lives, leaders and terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import Conflict, NotFound
from agent.membership.core import view as views
from agent.membership.member import Member, State
from agent.membership.view import EMPTY, UP, NodeEntry, View


def member(name: str, state: State = State.ALIVE, boot: int = 1) -> Member:
    return Member(name, f"{ord(name[-1]):032x}", boot, 0, state, "10.0.0.1", 7100)


def table(*members: Member) -> dict[str, Member]:
    return {entry.name: entry for entry in members}


def propose(view: View | None, *members: Member) -> View | None:
    return views.propose(view, table(*members), {entry.name: ("x", "y") for entry in members})


def changed(view: View | None, *members: Member) -> View:
    found = propose(view, *members)
    assert found is not None
    return found


ABC = (member("a"), member("b"), member("c"))


def test_the_first_view() -> None:
    view = changed(None, *ABC)
    assert (view.version, view.term, view.leader) == (1, 1, "a")
    assert view.up_names() == ["a", "b", "c"]
    assert view.nodes["a"] == NodeEntry(UP, f"{ord('a'):032x}:1", 1)


def test_suspects_neither_join_nor_leave() -> None:
    view = changed(None, *ABC)
    assert propose(view, member("a"), member("b", State.SUSPECT), member("d", State.SUSPECT)) is None
    assert propose(None, member("a", State.SUSPECT)) is None


def test_two_deaths_are_one_change_and_the_leader_stays() -> None:
    view = changed(changed(None, *ABC), member("b", State.DEAD), member("c", State.LEFT))
    assert (view.version, view.term, view.leader) == (2, 1, "a")
    assert [view.nodes[name].state for name in "abc"] == ["up", "down", "down"]
    assert [view.nodes[name].since for name in "abc"] == [1, 2, 2]


def test_a_dead_leader_is_replaced_and_does_not_get_its_place_back() -> None:
    view = changed(changed(None, *ABC), member("a", State.DEAD))
    assert (view.term, view.leader) == (2, "b")
    view = changed(view, member("a", boot=2))
    assert (view.term, view.leader, view.version) == (2, "b", 3)


def test_a_new_boot_is_a_change_and_of_a_leader_a_new_term() -> None:
    first = changed(None, *ABC)
    view = changed(first, member("b", boot=2))
    assert view.nodes["b"].node_id.endswith(":2")
    assert view.term == 1
    view = changed(first, member("a", boot=2))
    assert (view.term, view.leader) == (2, "a")


def test_news_of_an_earlier_life_changes_nothing() -> None:
    view = changed(None, member("a", boot=5), member("b"))
    assert propose(view, member("a", State.DEAD, boot=4)) is None
    assert propose(view, member("a", State.ALIVE, boot=4)) is None
    assert propose(view, member("a", State.DEAD, boot=5)) is not None


def test_without_a_node_up_there_is_no_leader_and_the_term_still_grows() -> None:
    view = changed(changed(None, member("a")), member("a", State.DEAD))
    assert (view.leader, view.term) == ("", 2)
    view = changed(view, member("b"))
    assert (view.leader, view.term) == ("b", 3)


def test_one_reporter_evicts_no_node_in_a_cluster_of_five() -> None:
    five = changed(None, *(member(name) for name in "abcde"))
    dead = table(member("c", State.DEAD))
    for reporters in ({}, {"c": ("a",)}, {"b": ("a", "d")}):
        assert views.propose(five, dead, reporters) is None
    after = views.propose(five, dead, {"c": ("a", "d")})
    assert after is not None
    assert after.up_names() == ["a", "b", "d", "e"]
    found = views.propose(after, table(member("d", State.DEAD)), {"d": ("a",)})
    assert found is not None, "four nodes are too few to ask for two reporters"
    evicted = views.propose(after, table(member("d", State.DEAD)), {"d": ("c",)})
    assert evicted is None, "c is down itself, and may hear no one"
    assert views.propose(five, table(member("c", State.LEFT)), {}) is not None, "a leave needs no reporter"


def test_a_disk_that_is_up_under_another_name_does_not_join() -> None:
    view = changed(None, *ABC)
    clone = Member("z", member("a").uuid, 9, 0, State.ALIVE, "10.0.0.2", 7100)
    assert propose(view, clone) is None
    view = changed(view, member("a", State.DEAD))
    assert propose(view, clone) is not None, "a renamed machine may come back once its old name is down"


def test_a_voter_is_replaced_through_a_view_in_which_both_groups_decide() -> None:
    view = changed(None, *(member(name) for name in "abcd"))
    assert views.groups(None, "abc") == views.groups(view, "abc") == (("a", "b", "c"),)
    both = views.replace_voter(view, "a", "d", "abc")
    assert views.groups(both, "abc") == (("a", "b", "c"), ("d", "b", "c"))
    assert views.replace_voter(both, "a", "d", "abc") == both, "twice is once"
    with pytest.raises(Conflict, match="not finished"):
        views.replace_voter(both, "b", "e", "abc")
    after = changed(both, member("e"))
    assert views.groups(after, "abc") == views.groups(both, "abc"), "other changes keep the voters"
    done = views.finish_replacement(after, both)
    assert done is not None
    assert views.groups(done, "abc") == (("d", "b", "c"),)
    assert done.version == after.version + 1
    assert views.finish_replacement(done, both) == done
    other = views.replace_voter(done, "b", "e", "abc")
    assert views.finish_replacement(other, both) == other, "another replacement, not known to be chosen"


def test_impossible_replacements_are_refused() -> None:
    view = changed(None, *(member(name) for name in "abcd"))
    with pytest.raises(NotFound, match="not a voter"):
        views.replace_voter(view, "d", "a", "abc")
    with pytest.raises(Conflict, match="already a voter"):
        views.replace_voter(view, "a", "b", "abc")
    with pytest.raises(Conflict, match="not up"):
        views.replace_voter(view, "a", "z", "abc")
    with pytest.raises(Conflict, match="no view yet"):
        views.replace_voter(None, "a", "d", "abc")


members = st.builds(member, st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(State), st.integers(1, 3))


@given(st.lists(st.lists(members, max_size=4), max_size=12))
def test_versions_terms_and_leaders_over_any_history(history: list[list[Member]]) -> None:
    view: View | None = None
    for verdicts in history:
        after = propose(view, *verdicts)
        if after is None:
            continue
        assert propose(after, *verdicts) is None, "applying a change twice is applying it once"
        assert after.version == views.version(view) + 1
        before = view or EMPTY
        assert after.term - before.term in (0, 1)
        if after.leader != before.leader:
            assert after.term == before.term + 1
        up = after.up_names()
        assert after.leader in up if up else after.leader == ""
        view = after
