"""The client of the logs agent: searches whose output streams, and the logs that a node has."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Mapping
from typing import Any

from agent.common.errors import RainStormError
from agent.wire.client import Client, Target
from agent.wire.framing import Buffer

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
        number = 1
        try:
            while True:
                found = self._client.call(
                    self._target,
                    "logs.search_piece",
                    {"search": name, "number": number},
                    timeout_s=self._timeout_s,
                )
                if found.fields["done"]:
                    return dict(found.fields["summary"])
                if found.fields["number"] == number:
                    number += 1
                    yield found.payload
        finally:
            with contextlib.suppress(RainStormError):  # it ends by itself when nobody asks for more
                self._call("logs.search_end", {"search": name}, 2.0)

    def files(self) -> dict[str, Any]:
        """Returns the logs that the node has and those of the system that it lets be read."""
        return self._call("logs.files", {}, self._timeout_s)

    def _call(self, kind: str, fields: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return self._client.call(self._target, kind, fields, timeout_s=timeout_s).fields
