"""The agreed view: asked for, awaited, and given another voter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from agent.common.message import Counter, Duration, OptionalName, Request
from agent.membership.view import View


@dataclass(frozen=True, slots=True)
class ViewReply:
    """The newest view that the node knows."""

    view: View


@dataclass(frozen=True, slots=True)
class GetView(Request[ViewReply]):
    """Asks for the view."""

    kind: ClassVar[str] = "membership.view"
    reply: ClassVar[type[Any]] = ViewReply


@dataclass(frozen=True, slots=True)
class WatchView(Request[ViewReply]):
    """Asks for the view as soon as its version is above ``version``, or after ``wait_s`` as it is."""

    kind: ClassVar[str] = "membership.watch"
    reply: ClassVar[type[Any]] = ViewReply
    version: Counter = 0
    wait_s: Duration = 0.0


@dataclass(frozen=True, slots=True)
class ReplaceVoter(Request[ViewReply]):
    """Orders that ``new`` votes in place of ``old``; with two empty names, to finish what was begun."""

    kind: ClassVar[str] = "membership.voters"
    reply: ClassVar[type[Any]] = ViewReply
    old: OptionalName = ""
    new: OptionalName = ""
