"""The rule by which a voter without a memory finds out whether it is new or has lost its memory.

A voter that forgets what it promised and accepted can undo a decision: with five voters, a value accepted by
A, B and C is unknown to the majority A, D, E once A has forgotten it. So a voter whose disk is empty must not
vote before it knows which of two cases it is in:

* **New.** The cluster is being founded. A majority of the voters, itself among them, has no memory; each of
  them drew an id for its empty disk, and the voter that finds the majority records these ids as the
  *founders*. A voter that a founder's record names by its id has promised nothing yet, since it never voted.
* **Forgetful.** Another voter has a memory and does not name this disk. Then it must learn: for each register
  a majority of all voters, without this one, decides once more on the value that it has. A value chosen with
  the lost vote was accepted by at least one of that majority, so it is learnt. A proposal that still counts
  the lost vote must have ended by then; the shell knows how long one lasts.

Both rest on the assumption of the registers themselves: a majority of the voters keeps its disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from agent.common.message import Name, OptionalName, Request
from agent.common.register import majority


@dataclass(frozen=True, slots=True)
class Standing:
    """How a voter describes itself: the id of its disk, and the founders (None while it has no memory)."""

    disk: OptionalName
    founders: Mapping[Name, OptionalName] | None = None


@dataclass(frozen=True, slots=True)
class AskStanding(Request[Standing]):
    """Asks a voter whether it has a memory."""

    kind: ClassVar[str] = "memory"
    reply: ClassVar[type[Any]] = Standing


class Verdict(Enum):
    """What a voter without a memory must do."""

    WAIT = "ask the others again"
    VOTE = "it is new and may vote"
    LEARN = "it lost its memory and has to learn before it votes"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and, unless the voter must wait, the founders to record."""

    verdict: Verdict
    founders: Mapping[str, str] = field(default_factory=dict)


def judge(
    name: str, disk: str, voters: Sequence[str], others: Mapping[str, Standing], *, patient: bool
) -> Judgement:
    """Returns what the node ``name`` must do, whose ``disk`` holds no memory.

    ``others`` are the answers of the other ``voters``. While ``patient``, it waits for those that do not
    answer: a cluster is founded by all of its voters rather than by a majority.
    """
    records = [other.founders for other in others.values() if other.founders is not None]
    for founders in records:
        if founders.get(name) == disk:
            return Judgement(Verdict.VOTE, founders)
    if records:
        return Judgement(Verdict.LEARN, max(records, key=len))
    if name not in voters:
        return Judgement(Verdict.WAIT)
    blank = {name: disk, **{other: standing.disk for other, standing in others.items()}}
    if len(blank) == len(voters) or (len(blank) >= majority(voters) and not patient):
        return Judgement(Verdict.VOTE, blank)
    return Judgement(Verdict.WAIT)
