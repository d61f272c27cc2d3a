"""The client of the logs agent: searches whose output is streamed, and the logs that a node has.

A wrong argument is a ``UsageError``, and nothing is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from agent.common.errors import RainStormError
from agent.common.message import R, Request, check_arguments
from agent.common.shell import threads
from agent.logs.messages import (
    AskCollection,
    CollectionStatus,
    EndSearch,
    Follow,
    ListLogs,
    LogList,
    PositionFields,
    StartSearch,
    Summary,
    TakePiece,
)
from agent.wire.client import Answered, Client, Target
from agent.wire.codec.framing import Buffer

# The agent answers a wait for output after ten seconds at the latest.
PIECE_TIMEOUT_S = 15.0
START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class NewLines:
    """The new lines of files by name, and the positions after them."""

    positions: tuple[PositionFields, ...]
    pieces: tuple[tuple[str, bytes], ...]


class LogsClient:
    """Talks to one logs agent."""

    def __init__(self, client: Client, target: Target, *, timeout_s: float = PIECE_TIMEOUT_S) -> None:
        self._client = client
        self._target = target
        self._timeout_s = timeout_s

    def search(self, query: StartSearch) -> Generator[Buffer, None, Summary]:
        """Yields what grep prints on the node, in pieces, and returns the summary; the query gets a new id.

        Raises:
            UsageError: the agent, or grep itself, refuses the search.
            RainStormError: the agent cannot be reached or lost the search.
        """
        search = threads.unique_id()
        start_timeout_s = min(START_TIMEOUT_S, self._timeout_s)
        self._ask(replace(query, search=search), start_timeout_s)
        number, ended = 1, False
        try:
            while True:
                request = TakePiece(search, number)
                found = self._ask(request, self._timeout_s)
                if found.message.done:
                    ended = True
                    return found.message.summary or Summary()
                if found.message.number == number:
                    number += 1
                    yield found.payload
        finally:
            if not ended:
                with contextlib.suppress(RainStormError):  # it ends by itself when nobody asks for more
                    self._ask(EndSearch(search), 2.0)

    def list(self) -> LogList:
        """Returns the logs that the node has and those of the system that it lets operators read."""
        return self._ask(ListLogs(), self._timeout_s).message

    def follow(
        self,
        positions: tuple[PositionFields, ...] | None,
        *,
        files: Sequence[str] = (),
        tail: int = 10,
        since: float | None = None,
        wait_s: float = 0.0,
    ) -> NewLines:
        """Returns the lines after ``positions``.

        Without positions the answer has no lines, but the positions at which ``tail`` or ``since``
        begins. With ``wait_s`` the agent holds the request until there are lines.
        """
        request = Follow(positions, tuple(files), tail, since, wait_s)
        found = self._ask(request, wait_s + self._timeout_s)
        pieces, at = [], 0
        for file, size in found.message.pieces:
            pieces.append((file, bytes(found.payload[at : at + size])))
            at += size
        return NewLines(found.message.positions, tuple(pieces))

    def collection(self) -> CollectionStatus:
        """Returns the progress of the node's collection into HyDFS."""
        return self._ask(AskCollection(), self._timeout_s).message

    def _ask(self, request: Request[R], timeout_s: float) -> Answered[R]:
        check_arguments(request)
        return self._client.ask(self._target, request, timeout_s=timeout_s)
