"""The agreed view as pure functions: what it becomes when this node's verdicts are applied to it.

The view is the value of one replicated register: ``{"version", "term", "leader", "nodes": {name: {"state":
"up" or "down", "node_id", "since"}}}``. Detectors only propose; the register's majority decides, so there is
one sequence of views whatever they believe. ``version`` grows by one with every change; ``term`` with every
change of leader, and is the fencing token of whatever the leader does. A node that comes back with a new boot
is another life: if it was the leader, its return is a change of leader too, because the life that held the
term is over. Who votes is configured, until the first replacement of a voter writes it into the view
(``voters``, and ``voters_before`` while both groups decide).

A death evicts a node only with enough reporters: nodes that found it silent by themselves. In a cluster of
five or more two are asked for, so that one node whose network is broken cannot evict others, whatever it
believes. A reporter that is down in that view does not count: one that was evicted for hearing nobody may
believe all others dead. A node whose disk is already up under another name does not join.

``propose`` is idempotent: applied to its own result with the same verdicts it changes nothing. A Paxos round
that lost a race may have been finished by its rival and is then run again, so a change must not count itself
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.common.errors import Conflict, NotFound
from agent.common.register import Groups
from agent.membership.member import LIVE, Member, State

UP, DOWN = "up", "down"
REPORTERS_FROM_NODES = 5

View = Mapping[str, Any]


def empty() -> dict[str, Any]:
    """Returns the view of a cluster that has none yet."""
    return {"version": 0, "term": 0, "leader": "", "nodes": {}}


def version(view: View | None) -> int:
    """Returns the view's version; 0 when there is none."""
    return int(view["version"]) if view is not None else 0


def up_names(view: View) -> list[str]:
    """Returns the names of the nodes that are up, sorted."""
    return sorted(name for name, entry in view["nodes"].items() if entry["state"] == UP)


def among(view: View, names: Sequence[str]) -> dict[str, Any]:
    """Returns the view as far as it is about ``names``.

    While a cluster grows, the view has nodes of which some agents were not told yet where they are.
    """
    nodes = {name: entry for name, entry in view["nodes"].items() if name in names}
    return {**view, "nodes": nodes, "leader": view["leader"] if view["leader"] in names else ""}


def reporters_needed(view: View | None) -> int:
    """Returns how many nodes must have found a node silent before it is evicted from this view."""
    return 2 if view is not None and len(up_names(view)) >= REPORTERS_FROM_NODES else 1


def propose(
    view: View | None, members: Mapping[str, Member], reporters: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    """Returns the view with the verdicts of ``members`` applied, or None when nothing changes.

    ``reporters`` names, for each member that is believed dead, the nodes that found it silent by themselves.
    """
    base = view if view is not None else empty()
    number = int(base["version"]) + 1
    nodes = {name: dict(entry) for name, entry in base["nodes"].items()}
    needed = reporters_needed(view)
    for name in sorted(members):
        member = members[name]
        if member.state is State.DEAD and _witnesses(base, reporters.get(name, ())) < needed:
            continue
        if member.state is State.ALIVE and _is_taken(nodes, member):
            continue
        verdict = _verdict(nodes.get(name), member)
        if verdict is not None:
            nodes[name] = {**verdict, "since": number}
    if nodes == base["nodes"]:
        return None
    changed = {**base, "version": number, "nodes": nodes}
    return _with_leader(changed, base)


def groups(view: View | None, configured: Sequence[str]) -> Groups:
    """Returns the groups of voters of each of which a majority decides about this view."""
    now = tuple(view.get("voters") or configured) if view is not None else tuple(configured)
    before = tuple(view.get("voters_before") or ()) if view is not None else ()
    return (before, now) if before else (now,)


def replace_voter(view: View | None, old: str, new: str, configured: Sequence[str]) -> dict[str, Any]:
    """Returns the view in which majorities of both the voters so far and those with ``new`` for ``old``
    decide; the same view when that is so already.

    Raises:
        Conflict: another replacement is not finished, or ``new`` is not up or votes already.
        NotFound: ``old`` does not vote.
    """
    *before, now = groups(view, configured)
    if view is None:
        raise Conflict("there is no view yet", hint="wait until the cluster has formed: fab status")
    wanted = tuple(new if voter == old else voter for voter in now)
    if before:
        if new in now and old in before[0] and old not in now:
            return dict(view)
        raise Conflict("a replacement of a voter is not finished", hint="finish it: fab voters --finish")
    if old not in now:
        raise NotFound(f"{old} is no voter", hint="see who votes: fab voters")
    if new in now:
        raise Conflict(f"{new} votes already", hint="see who votes: fab voters")
    if new not in up_names(view):
        raise Conflict(f"{new} is not up", hint="start it first; see: fab members")
    return {**view, "version": version(view) + 1, "voters": list(wanted), "voters_before": list(now)}


def finish_replacement(view: View | None, chosen: View | None) -> dict[str, Any] | None:
    """Returns the view in which the new voters decide alone; the same view when other voters decide by now.

    Safe only when ``chosen``, in which both groups decide, is known to have been chosen: see
    ``agent.common.register``.
    """
    if view is None or chosen is None:
        return None if view is None else dict(view)
    pair = (view.get("voters_before"), view.get("voters"))
    if not pair[0] or pair != (chosen.get("voters_before"), chosen.get("voters")):
        return dict(view)
    rest = {key: value for key, value in view.items() if key != "voters_before"}
    return {**rest, "version": version(view) + 1}


def _verdict(entry: Mapping[str, Any] | None, member: Member) -> dict[str, Any] | None:
    """Returns the new state and id of a node, or None when they stay as they are."""
    if member.state is State.ALIVE:
        if entry is None:
            return {"state": UP, "node_id": member.node_id}
        if _is_older(member.node_id, entry["node_id"]):
            return None
        wanted = {"state": UP, "node_id": member.node_id}
        return wanted if (entry["state"], entry["node_id"]) != (UP, member.node_id) else None
    if member.state in LIVE or entry is None or entry["state"] == DOWN:
        return None
    # A death of an earlier life says nothing about the life that the view knows.
    return (
        None if _is_older(member.node_id, entry["node_id"]) else {"state": DOWN, "node_id": entry["node_id"]}
    )


def _witnesses(base: View, reporters: Sequence[str]) -> int:
    """Returns how many of the reporters are not down in the view that is to be changed."""
    return sum(base["nodes"].get(name, {}).get("state") != DOWN for name in reporters)


def _is_taken(nodes: Mapping[str, Mapping[str, Any]], member: Member) -> bool:
    """Tells whether a node of another name is up with the same disk."""
    return any(
        name != member.name and entry["state"] == UP and entry["node_id"].startswith(f"{member.uuid}:")
        for name, entry in nodes.items()
    )


def _is_older(node_id: str, known: str) -> bool:
    """Tells whether ``node_id`` is an earlier life than ``known``; a new disk adopts a later boot than it
    met.
    """
    return _boot(node_id) < _boot(known)


def _boot(node_id: str) -> int:
    return int(node_id.rpartition(":")[2])


def _with_leader(view: dict[str, Any], base: View) -> dict[str, Any]:
    leader = view["leader"]
    before, after = base["nodes"].get(leader), view["nodes"].get(leader, {})
    if before is not None and after["state"] == UP and before["node_id"] == after["node_id"]:
        return view
    candidates = up_names(view)
    chosen = candidates[0] if candidates else ""
    if chosen or leader:
        view["leader"], view["term"] = chosen, int(view["term"]) + 1
    return view
