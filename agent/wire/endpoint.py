"""How a typed request is answered: the handler, what it learns about the call, and the answer.

What each request makes is a Struct of msgspec, which costs a fifth of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.message import R
from agent.wire.codec.framing import Buffer
from agent.wire.connection import Payload


class Call(msgspec.Struct, frozen=True):
    """What a handler learns about a request besides its message.

    ``peer`` is the authenticated name of the caller, ``local`` on a Unix socket; ``view`` the version of the
    cluster view that the caller knows; ``connection`` a number that is never used twice.
    """

    peer: str
    deadline: Deadline
    payload: Buffer = b""
    view: int = 0
    connection: int = 0


class Answer(msgspec.Struct, Generic[R], frozen=True):
    """A reply with a payload; ``descriptor`` hands an open file to a caller on the Unix socket."""

    message: R
    payload: Payload = b""
    descriptor: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request type and its handler, which returns the request's reply type, alone or in an ``Answer``."""

    request: type[message.Request[Any]]
    handle: Callable[[Any, Call], Any]

    def answer(self, fields: dict[str, Any], call: Call) -> Answer[Any]:
        """Decodes the request, has it handled and returns the answer.

        Raises:
            InvalidMessage: the fields are not those of the request; the handler was not called.
        """
        found = self.handle(message.decode(self.request, fields, self.request.kind), call)
        answer = found if isinstance(found, Answer) else Answer(found)
        assert isinstance(answer.message, self.request.reply), f"{self.request.kind}: wrong type of reply"
        return answer


Q = TypeVar("Q", bound=message.Request[Any])


def endpoint(request: type[Q], handle: Callable[[Q, Call], Any]) -> Endpoint:
    """Returns the endpoint that has requests of one type answered by ``handle``."""
    return Endpoint(request, handle)


def by_kind(*found: Endpoint) -> dict[str, Endpoint]:
    """Returns endpoints under the kinds of their requests, as a server takes them."""
    named = {each.request.kind: each for each in found}
    assert len(named) == len(found), "two endpoints answer the same kind of request"
    return named
