"""A view as a value: its plain form, and the refusal of everything that is not a view."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import InvalidMessage
from agent.membership.view import DOWN, EMPTY, NODES_MAX, UP, NodeEntry, View, check

A, B = "a" * 32 + ":3", "b" * 32 + ":1"


def plain(**changes: Any) -> dict[str, Any]:
    """Returns the plain form of a view, as any release writes it."""
    nodes = {
        "vm1": {"state": "up", "node_id": A, "since": 1},
        "vm2": {"state": "down", "node_id": B, "since": 7},
    }
    return {"version": 7, "term": 2, "leader": "vm1", "nodes": nodes, **changes}


def entry(**changes: Any) -> dict[str, Any]:
    return plain(nodes={"vm1": {"state": "up", "node_id": A, "since": 1, **changes}})


def test_view_and_its_plain_form_are_the_same() -> None:
    view = View.from_fields(plain())
    assert view == View(7, 2, "vm1", {"vm1": NodeEntry(UP, A, 1), "vm2": NodeEntry(DOWN, B, 7)})
    assert view.as_fields() == plain(), "without voters it has the form of earlier releases"
    replacing = plain(voters=["vm1"], voters_before=["vm2"])
    assert View.from_fields(replacing).as_fields() == replacing


def test_view_tells_who_is_up_and_in_which_life() -> None:
    view = View.from_fields(plain())
    assert view.up_names() == ["vm1"]
    assert (view.is_up("vm1"), view.is_up("vm2"), view.is_up("vm3")) == (True, False, False)
    assert (view.nodes["vm1"].uuid, view.nodes["vm1"].boot) == ("a" * 32, 3)


def test_view_among_some_nodes_names_no_other() -> None:
    view = View.from_fields(plain())
    found = view.among(["vm2", "vm3"])
    assert (found.version, found.term, found.leader, list(found.nodes)) == (7, 2, "", ["vm2"])
    assert view.among(["vm1", "vm2"]) == view


def test_fields_of_a_later_release_are_ignored_and_those_of_an_earlier_one_default() -> None:
    later = plain(zones={"vm1": "east"})
    later["nodes"]["vm1"]["zone"] = "east"
    assert View.from_fields(later) == View.from_fields(plain())
    assert View.from_fields({}) == EMPTY
    assert View.from_fields({"version": 1, "nodes": {"vm2": {"state": "up", "node_id": B}}}).nodes[
        "vm2"
    ] == NodeEntry(UP, B, 0)


BAD: dict[str, Any] = {
    "not a map": [1, 2],
    "nothing": None,
    "negative version": plain(version=-1),
    "huge term": plain(term=1 << 64),
    "text for a version": plain(version="7"),
    "true for a version": plain(version=True),
    "NaN for a version": plain(version=float("nan")),
    "leader that is down": plain(leader="vm2"),
    "leader that is not in the view": plain(leader="vm9"),
    "nodes in a list": plain(nodes=["vm1"]),
    "too many nodes": plain(
        leader="", nodes={f"vm{n}": {"state": "up", "node_id": B} for n in range(NODES_MAX + 1)}
    ),
    "node without a life": plain(nodes={"vm1": {"state": "up"}}),
    "unknown state": entry(state="resting"),
    "node id without a uuid": entry(node_id="vm1:1"),
    "node id without a boot": entry(node_id="a" * 32),
    "node id with a line feed": entry(node_id=A + "\n"),
    "node id with a huge boot": entry(node_id="a" * 32 + ":" + "9" * 40),
    "change in the future": entry(since=8),
    "nameless node": plain(leader="", nodes={"": {"state": "up", "node_id": B}}),
    "long name": plain(leader="", nodes={"x" * 64: {"state": "up", "node_id": B}}),
    "name of many bytes": plain(leader="", nodes={"ü" * 40: {"state": "up", "node_id": B}}),
    "name that is a number": plain(leader="", nodes={1: {"state": "up", "node_id": B}}),
    "voter twice": plain(voters=["vm1", "vm1"]),
    "voters_before without voters": plain(voters_before=["vm1"]),
    "nameless voter": plain(voters=[""]),
    "voters that are text": plain(voters="vm1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_a_view_is_refused(kind: str) -> None:
    with pytest.raises(InvalidMessage, match="view"):
        View.from_fields(BAD[kind])
    with pytest.raises(InvalidMessage):
        check("view", BAD[kind]) if BAD[kind] is not None else check("views", None)


def test_register_of_the_view_takes_a_view_or_nothing() -> None:
    check("view", plain())
    check("view", None)
    with pytest.raises(InvalidMessage, match="no register 'file/x'"):
        check("file/x", plain())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["version", "term", "leader", "nodes", "voters", "voters_before", "since", "vm1"])


@pytest.mark.slow
@given(st.dictionaries(keys, values), st.dictionaries(keys, values), values)
def test_any_values_are_a_valid_view_or_refused(
    top: dict[str, Any], inner: dict[str, Any], whole: object
) -> None:
    nodes = plain()["nodes"]
    nodes["vm1"] |= inner
    for fields in (whole, {**plain(), **top}, plain(nodes=nodes), {**plain(nodes=nodes), **top}):
        try:
            view = View.from_fields(fields)
        except InvalidMessage:
            continue
        assert View.from_fields(view.as_fields()) == view
        assert not view.leader or view.is_up(view.leader)
        assert all(0 <= each.boot < 10**18 for each in view.nodes.values())
