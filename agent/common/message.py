"""Typed messages: everything that crosses a process, a socket or a disk is a frozen class, checked first.

A message class is a ``@dataclass(frozen=True, slots=True)`` whose annotations say what is allowed: the types
below carry the ranges and sizes. ``decode`` turns plain values (a msgpack map) into an instance or raises
``InvalidMessage``; it never lets a wrong type, a number out of range, NaN or an oversized list pass. Unknown
fields are ignored and missing ones take their defaults, so that neighbouring releases understand each other:
a field that is added needs a default, and one that is removed must have had one.

msgspec checks the messages: it compiles a decoder for each class, which then takes about 2 µs a message. It
compiles when a class is first used, and shows the unfinished result to other threads, which crash on it. So
one thread compiles, and the others wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Meta

from agent.common.errors import InvalidMessage, UsageError

M = TypeVar("M")
R = TypeVar("R")

# Largest value of a signed 64-bit integer: offsets, lengths, versions and sequences stay below it.
COUNTER_MAX = (1 << 63) - 1
# A year: beyond this a duration is a mistake.
DURATION_S_MAX = 366 * 86400.0
# An hour of the year 9999: beyond this a wall-clock time is a mistake.
WALL_S_MAX = 253_402_300_800.0
NAME_CHARS_MAX = 255
TEXT_CHARS_MAX = 64 * 1024
LIST_MAX = 100_000
# The types that msgpack carries unchanged; otherwise msgspec would read text as bytes in base64.
BYTES = (bytes, bytearray, memoryview)

# The classes that any thread may use; all others are compiled first, one at a time.
_compiled: set[type[Any]] = set()
_compiling = threading.Lock()

Counter = Annotated[int, Meta(ge=0, le=COUNTER_MAX)]
Crc = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Duration = Annotated[float, Meta(ge=0.0, le=DURATION_S_MAX)]
Wall = Annotated[float, Meta(ge=0.0, le=WALL_S_MAX)]
# A finite number of either sign; msgspec's bounds refuse NaN and the infinities.
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
# The name of a node, job, task, writer or file; the rules of each are checked where it is used.
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
# A name that may be missing.
OptionalName = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]


class Message:
    """Base of message classes that have a kind, by which a receiver tells them apart."""

    __slots__ = ()
    kind: ClassVar[str]


class Request(Message, Generic[R]):
    """Base of messages that are answered; ``reply`` is the class of the answer, which is also ``R``."""

    __slots__ = ()
    reply: ClassVar[type[Any]]


K = TypeVar("K", bound=Message)


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a request that only has something done: there is nothing to return."""


def encode(message: Any) -> dict[str, Any]:
    """Returns a message as the plain values of a msgpack map."""
    fields = msgspec.to_builtins(message, builtin_types=BYTES)
    assert isinstance(fields, dict), f"{type(message).__name__} is not a message"
    return fields


def decode(cls: type[M], fields: Any, what: str = "") -> M:
    """Returns the message of class ``cls`` that ``fields`` hold.

    Raises:
        InvalidMessage: they hold something else; the error names message, field and expectation.
    """
    try:
        return _convert(cls, fields)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise InvalidMessage(f"{what or cls.__name__}: {error}") from None


def check_arguments(request: Request[Any]) -> None:
    """Refuses a request that its receiver would refuse; a client calls it with its caller's arguments.

    Raises:
        UsageError: an argument is not allowed.
    """
    try:
        fields = encode(request)
        msgspec.msgpack.encode(fields)  # a lone surrogate, or a number that msgpack does not know
        _convert(type(request), fields)
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError, OverflowError) as error:
        reason, _, place = str(error).partition(" - at `$.")
        argument = f"the argument {place.rstrip('`')}" if place else "an argument"
        raise UsageError(
            f"{request.kind}: {argument} is not allowed: {reason}", hint="correct it and ask again"
        ) from None


def _convert(cls: type[M], fields: Any) -> M:
    if cls not in _compiled:
        with _compiling:
            msgspec.msgpack.Decoder(cls)  # compiles the class with those of its fields
            _compiled.add(cls)
    return msgspec.convert(fields, cls, builtin_types=BYTES)


class Vocabulary(Generic[K]):
    """The messages that one direction of a conversation knows, told apart by the field ``tag``."""

    def __init__(self, name: str, *classes: type[K], tag: str = "type") -> None:
        self.name = name
        self.tag = tag
        self.classes: Mapping[str, type[K]] = {cls.kind: cls for cls in classes}
        assert len(self.classes) == len(classes), f"{name}: two messages have the same kind"

    def encode(self, message: K) -> dict[str, Any]:
        """Returns a message as plain values, including its kind."""
        assert type(message) is self.classes.get(message.kind), f"{self.name} has no {type(message).__name__}"
        return {self.tag: message.kind, **encode(message)}

    def decode(self, fields: Any) -> K:
        """Returns the message that ``fields`` hold.

        Raises:
            InvalidMessage: they hold no message of this vocabulary.
        """
        kind = fields.get(self.tag) if isinstance(fields, dict) else None
        cls = self.classes.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise InvalidMessage(f"{self.name} has no message of type {_shown(kind)}")
        return decode(cls, fields, f"{self.name}: {kind}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
