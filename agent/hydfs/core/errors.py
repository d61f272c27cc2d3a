"""Errors between store agents: those that clients may see, and a few codes that never leave the store.

The details of an error are a dataclass of this module, sent as plain values and checked where they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from agent.common import message
from agent.common.errors import InvalidMessage, RainStormError
from agent.common.failure import Failure
from agent.common.message import Counter, Name, OptionalName

# The answer that sends a client to the file's next block; never seen outside the store.
MOVED = "MOVED"
# The block is not coordinated by the node that was asked; never seen outside the store.
NOT_COORDINATOR = "NOT_COORDINATOR"


@dataclass(frozen=True, slots=True)
class Moved:
    """Why a block was sealed: the replicas that failed, and the code of the last failure."""

    failed: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    cause: OptionalName = ""

    @classmethod
    def of(cls, error: RainStormError) -> Moved:
        """Returns the details that ``error`` holds, or empty ones."""
        try:
            return message.decode(cls, error.details)
        except InvalidMessage:
            return cls()


@dataclass(frozen=True, slots=True)
class FoundLength:
    """The length of a file that differed from the length that an append required."""

    length: Counter


Details = Moved | FoundLength | None


class StoreError(RainStormError):
    """An answer between store agents whose code no client may see."""


def error_of(code: str, text: str, details: Details = None) -> RainStormError:
    """Returns an exception with this code, even for the codes that only store agents use."""
    fields = {} if details is None else message.encode(details)
    error = Failure(code, text, details=fields).error()
    if error.code != code:
        error = StoreError(text, details={"store_code": code, **fields})
    return error


def code_of(error: RainStormError) -> str:
    """Returns the code that ``error_of`` was given."""
    return str(error.details.get("store_code") or error.code)
