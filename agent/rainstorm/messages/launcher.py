"""The messages between a node's agent and its task launcher: each packet is one JSON object.

The launcher runs as the user of the tasks, so a hostile task might send in its place: the agent believes only
that a task has ended. The classes are named tuples and the checks are written out, because the launcher is a
process of 12 MB that imports only the standard library.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeAlias

PACKET_BYTES_MAX = 4096
# A task's control socket and its log, in this order.
FILES_A_SPAWN = 2
# An agent numbers its tasks from one; even with a task every millisecond it takes years to get here.
NUMBER_MAX = 1 << 40
MEMORY_BYTES_MAX = 1 << 60


class SpawnTask(NamedTuple):
    """To the launcher: start a task that listens on ``host``; its two files come with the packet."""

    number: int
    host: str
    hydfs: str
    memory_bytes: int


class KillTask(NamedTuple):
    """To the launcher: end a task with the processes that it started."""

    number: int


class TaskEnded(NamedTuple):
    """From the launcher: a task has ended, or could not be started."""

    number: int
    cause: str


ToLauncher: TypeAlias = SpawnTask | KillTask


def encode(message: ToLauncher | TaskEnded) -> bytes:
    """Returns the packet of a message."""
    fields: dict[str, Any]
    match message:
        case SpawnTask(number, host, hydfs, memory_bytes):
            fields = {"spawn": number, "host": host, "hydfs": hydfs, "memory": memory_bytes}
        case KillTask(number):
            fields = {"kill": number}
        case TaskEnded(number, cause):
            fields = {"ended": number, "cause": cause}
    return json.dumps(fields).encode()


def decode_request(packet: bytes) -> ToLauncher:
    """Returns the request of an agent.

    Raises:
        ValueError: the packet is not a request.
    """
    fields = _fields(packet)
    if "kill" in fields:
        return KillTask(_number(fields, "kill", NUMBER_MAX))
    memory_bytes = _number(fields, "memory", MEMORY_BYTES_MAX)
    return SpawnTask(
        _number(fields, "spawn", NUMBER_MAX), _text(fields, "host"), _text(fields, "hydfs"), memory_bytes
    )


def decode_ended(packet: bytes) -> TaskEnded:
    """Returns what a launcher reports.

    Raises:
        ValueError: the packet is not a report.
    """
    fields = _fields(packet)
    return TaskEnded(_number(fields, "ended", NUMBER_MAX), _text(fields, "cause"))


def _fields(packet: bytes) -> dict[str, Any]:
    try:
        found = json.loads(packet)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _number(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name!r} is not a number from 0 to {most}")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    # A null byte would end a command's argument, and half of a surrogate pair cannot be encoded.
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{name!r} is not a printable text")
    return value
