"""The rules of the agreed view: how this node's verdicts change it.

Detectors only propose; the register's majority decides, so there is one sequence of views whatever they
believe. ``version`` grows by one with every change; ``term`` with every change of leader, and fences whatever
an earlier leader still does. A node that comes back with a new boot is another life: if it was the leader,
its return is a change of leader too, because the life that held the term has ended. The voters are the
configured ones until the first replacement of a voter writes them into the view (``voters``, and
``voters_before`` while both groups decide).

A death evicts a node only with enough reporters: nodes that found it silent by themselves. A cluster of five
or more needs two, so that one node whose network is broken cannot evict others, whatever it believes. A
reporter that is down in that view does not count: one that was evicted for hearing nobody may believe that
all others are dead. A node whose disk is already up under another name does not join.

``propose`` is idempotent: applied to its own result with the same verdicts it changes nothing. A Paxos round
that lost a race may have been finished by its rival and is then run again, so a change must not count itself
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.common.errors import Conflict, NotFound
from agent.common.register import Groups
from agent.membership.member import LIVE, Member, State
from agent.membership.view import DOWN, EMPTY, UP, NodeEntry, View

REPORTERS_FROM_NODES = 5


def version(view: View | None) -> int:
    """Returns the view's version; 0 when there is none."""
    return view.version if view is not None else 0


def reporters_needed(view: View | None) -> int:
    """Returns how many nodes must have found a node silent before it is evicted from this view."""
    return 2 if view is not None and len(view.up_names()) >= REPORTERS_FROM_NODES else 1


def propose(
    view: View | None, members: Mapping[str, Member], reporters: Mapping[str, Sequence[str]]
) -> View | None:
    """Returns the view with the verdicts of ``members`` applied, or None when nothing changes.

    ``reporters`` names, for each member that is believed dead, the nodes that found it silent by themselves.
    """
    base = view if view is not None else EMPTY
    number = base.version + 1
    nodes = dict(base.nodes)
    needed = reporters_needed(view)
    for name in sorted(members):
        member = members[name]
        if member.state is State.DEAD and _witnesses(base, reporters.get(name, ())) < needed:
            continue
        if member.state is State.ALIVE and _is_taken(nodes, member):
            continue
        verdict = _verdict(nodes.get(name), member)
        if verdict is not None:
            nodes[name] = replace(verdict, since=number)
    if nodes == base.nodes:
        return None
    return _with_leader(replace(base, version=number, nodes=nodes), base)


def groups(view: View | None, configured: Sequence[str]) -> Groups:
    """Returns the groups of voters that decide about this view, each by a majority."""
    if view is None:
        return (tuple(configured),)
    now = view.voters or tuple(configured)
    return (view.voters_before, now) if view.voters_before else (now,)


def replace_voter(view: View | None, old: str, new: str, configured: Sequence[str]) -> View:
    """Returns the view in which two groups decide, each by a majority: the voters so far, and those with
    ``new`` in place of ``old``. Returns the same view if that is already so.

    Raises:
        Conflict: another replacement is not finished, or ``new`` is not up or already votes.
        NotFound: ``old`` does not vote.
    """
    *before, now = groups(view, configured)
    if view is None:
        raise Conflict("there is no view yet", hint="wait until the cluster has formed: fab status")
    if before:
        if new in now and old in before[0] and old not in now:
            return view
        raise Conflict("a replacement of a voter is not finished", hint="finish it: fab voters --finish")
    if old not in now:
        raise NotFound(f"{old} is not a voter", hint="list the voters: fab voters")
    if new in now:
        raise Conflict(f"{new} is already a voter", hint="list the voters: fab voters")
    if not view.is_up(new):
        raise Conflict(f"{new} is not up", hint="start it first; see: fab members")
    wanted = tuple(new if voter == old else voter for voter in now)
    return replace(view, version=view.version + 1, voters=wanted, voters_before=now)


def finish_replacement(view: View | None, chosen: View | None) -> View | None:
    """Returns the view in which the new voters decide alone; the same view if other voters decide by now.

    Safe only when ``chosen``, in which both groups decide, is known to have been chosen: see
    ``agent.common.register``.
    """
    if view is None or chosen is None or not view.voters_before:
        return view
    if (view.voters_before, view.voters) != (chosen.voters_before, chosen.voters):
        return view
    return replace(view, version=view.version + 1, voters_before=())


def _verdict(entry: NodeEntry | None, member: Member) -> NodeEntry | None:
    """Returns the new state and life of a node, or None when they stay as they are."""
    if member.state is State.ALIVE:
        if entry is None:
            return NodeEntry(UP, member.node_id)
        # A new disk adopts a boot later than the one it meets, so an earlier boot is always an earlier life.
        if member.boot < entry.boot or (entry.state, entry.node_id) == (UP, member.node_id):
            return None
        return NodeEntry(UP, member.node_id)
    if member.state in LIVE or entry is None or entry.state == DOWN:
        return None
    # The death of an earlier life says nothing about the life that the view knows.
    return None if member.boot < entry.boot else NodeEntry(DOWN, entry.node_id)


def _witnesses(base: View, reporters: Sequence[str]) -> int:
    """Returns how many of the reporters are not down in the view that is to be changed."""
    entries = [base.nodes.get(name) for name in reporters]
    return sum(entry is None or entry.state != DOWN for entry in entries)


def _is_taken(nodes: Mapping[str, NodeEntry], member: Member) -> bool:
    """Tells whether a node of another name is up with the same disk."""
    return any(
        name != member.name and entry.state == UP and entry.uuid == member.uuid
        for name, entry in nodes.items()
    )


def _with_leader(view: View, base: View) -> View:
    """Returns the view with a leader that is up, in a new term unless the same life still leads."""
    leader = view.leader
    before, after = base.nodes.get(leader), view.nodes.get(leader)
    if before is not None and after is not None and after.state == UP and before.node_id == after.node_id:
        return view
    candidates = view.up_names()
    chosen = candidates[0] if candidates else ""
    if not chosen and not leader:
        return view
    return replace(view, leader=chosen, term=view.term + 1)
