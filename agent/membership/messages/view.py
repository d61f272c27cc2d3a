"""The requests about the agreed view: read it, wait for a newer one, replace a voter."""

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
    """Asks for the view once its version is above ``version``, or for the unchanged one after ``wait_s``."""

    kind: ClassVar[str] = "membership.watch"
    reply: ClassVar[type[Any]] = ViewReply
    version: Counter = 0
    wait_s: Duration = 0.0


@dataclass(frozen=True, slots=True)
class ReplaceVoter(Request[ViewReply]):
    """Makes ``new`` a voter in place of ``old``; two empty names finish a replacement that was begun."""

    kind: ClassVar[str] = "membership.voters"
    reply: ClassVar[type[Any]] = ViewReply
    old: OptionalName = ""
    new: OptionalName = ""
