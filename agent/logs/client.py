"""The client of the logs agent: searches whose output streams, and the logs that a node has."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from agent.common.errors import RainStormError
from agent.wire.client import Client, Target
from agent.wire.codec.framing import Buffer

# The agent answers a wait for output after ten seconds at the latest.
PIECE_TIMEOUT_S = 15.0
START_TIMEOUT_S = 10.0


class LogsClient:
    """Talks to one logs agent."""

    def __init__(self, client: Client, target: Target, *, timeout_s: float = PIECE_TIMEOUT_S) -> None:
        self._client = client
        self._target = target
        self._timeout_s = timeout_s

    def search(self, query: Mapping[str, Any]) -> Generator[Buffer, None, dict[str, Any]]:
        """Yields what grep prints on the node, in pieces, and returns the summary.

        Raises:
            UsageError: the agent, or grep itself, refuses the search.
            RainStormError: the agent is away or lost the search.
        """
        name = uuid.uuid4().hex
        self._call("logs.search", {**query, "search": name}, min(START_TIMEOUT_S, self._timeout_s))
        number, ended = 1, False
        try:
            while True:
                found = self._client.call(
                    self._target,
                    "logs.search_piece",
                    {"search": name, "number": number},
                    timeout_s=self._timeout_s,
                )
                if found.fields["done"]:
                    ended = True
                    return dict(found.fields["summary"])
                if found.fields["number"] == number:
                    number += 1
                    yield found.payload
        finally:
            if not ended:
                with contextlib.suppress(RainStormError):  # it ends by itself when nobody asks for more
                    self._call("logs.search_end", {"search": name}, 2.0)

    def files(self) -> dict[str, Any]:
        """Returns the logs that the node has and those of the system that it lets be read."""
        return self._call("logs.files", {}, self._timeout_s)

    def follow(
        self,
        positions: list[Any] | None,
        *,
        files: Sequence[str] = (),
        tail: int = 10,
        since: float | None = None,
        wait_s: float = 0.0,
    ) -> tuple[list[Any], list[tuple[str, bytes]]]:
        """Returns the positions behind the answer and what came after ``positions``: (file, whole lines).

        Without positions nothing but those comes back at which ``tail`` or ``since`` begins. With ``wait_s``
        the agent holds the request until there is something.
        """
        fields = {
            "positions": positions,
            "files": list(files),
            "tail": tail,
            "since": since,
            "wait_s": wait_s,
        }
        timeout_s = wait_s + self._timeout_s
        found = self._client.call(self._target, "logs.follow", fields, timeout_s=timeout_s)
        pieces, at = [], 0
        for label, size in found.fields["pieces"]:
            pieces.append((str(label), bytes(found.payload[at : at + size])))
            at += size
        return found.fields["positions"], pieces

    def collection(self) -> dict[str, Any]:
        """Returns how far the node's collection into HyDFS is."""
        return self._call("logs.collection", {}, self._timeout_s)

    def _call(self, kind: str, fields: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return self._client.call(self._target, kind, fields, timeout_s=timeout_s).fields
