"""Requests with any fields at all, as a faulty or hostile peer would send them."""

from __future__ import annotations

from typing import Any

from agent.common.deadline import Deadline
from agent.common.message import Done
from agent.common.shell import clock
from agent.wire.client import Client, Target, _decoded


def send(
    client: Client,
    target: Target,
    kind: str,
    fields: dict[Any, Any],
    payload: bytes = b"",
    *,
    timeout_s: float = 10.0,
) -> dict[str, Any]:
    """Sends a request as ``Client.ask`` does, without checking it, and returns the header of the answer.

    Raises:
        RainStormError: the error that the peer answered with.
    """
    deadline = Deadline(clock.monotonic(), timeout_s)
    frame = client._send(target, {**fields, "type": kind}, payload, deadline)
    _decoded(Done, frame, target, kind)
    return frame.header
