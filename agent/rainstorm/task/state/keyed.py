"""The keyed state of one task: what is committed, and what each uncommitted epoch changed.

Values are written in place; every epoch keeps an undo log of the values that it was the first to change. A
commit drops one undo log, and a rollback replays the undo logs newest first. Both take time proportional to
the keys touched, without any input or output. The delta to persist is the undo log's keys with their current
values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgpack
import msgspec

from agent.common.errors import Corrupt
from agent.wire.codec.framing import Buffer

Value = Any
# Keys, and for each its value: an integer, or the text of a decimal or a huge integer.
Segment = tuple[list[bytes], list[int | str]]


class KeyedState:
    """A map from key to value with epochs."""

    def __init__(self) -> None:
        self._values: dict[bytes, Value] = {}
        self._undo: dict[int, dict[bytes, Value]] = {}
        self._open: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> Iterable[tuple[bytes, Value]]:
        """Returns all keys and their current values."""
        return self._values.items()

    def get(self, key: bytes) -> Value | None:
        """Returns the current value of ``key``."""
        return self._values.get(key)

    def set(self, key: bytes, value: Value) -> None:
        """Changes a value in the open epoch."""
        if key not in self._open:
            self._open[key] = self._values.get(key)
        self._values[key] = value

    def changed(self) -> Iterator[tuple[bytes, Value]]:
        """Returns the keys that the open epoch changed, with their current values."""
        return ((key, self._values[key]) for key in self._open)

    def close_epoch(self, epoch: int) -> list[tuple[bytes, Value]]:
        """Ends the open epoch under the number ``epoch`` and returns what it changed."""
        delta = list(self.changed())
        self._undo[epoch] = self._open
        self._open = {}
        return delta

    def commit(self, epoch: int) -> None:
        """Forgets how to undo ``epoch`` and all before it."""
        for number in [number for number in self._undo if number <= epoch]:
            del self._undo[number]

    def roll_back(self, epoch: int) -> None:
        """Returns to the state at the end of ``epoch``, which is committed."""
        self._apply_undo(self._open)
        self._open = {}
        for number in sorted((number for number in self._undo if number > epoch), reverse=True):
            self._apply_undo(self._undo.pop(number))
        self._undo.clear()

    def load(self, values: Mapping[bytes, Value]) -> None:
        """Adds committed values; newer ones replace older ones."""
        self._values.update(values)

    def _apply_undo(self, undo: Mapping[bytes, Value]) -> None:
        for key, old in undo.items():
            if old is None:
                self._values.pop(key, None)
            else:
                self._values[key] = old


def encode_changes(changes: Sequence[tuple[bytes, Value]]) -> bytes:
    """Returns keys and values as the bytes of one state segment; decimals and huge integers travel as
    text.
    """
    keys = [key for key, _ in changes]
    values = [value if _fits(value) else str(value) for _, value in changes]
    packed: bytes = msgpack.packb([keys, values], use_bin_type=True)
    return packed


def decode_changes(data: Buffer) -> dict[bytes, Value]:
    """Returns the keys and values of a state segment.

    Raises:
        Corrupt: the bytes hold something else.
    """
    try:
        keys, values = msgspec.convert(msgpack.unpackb(data, raw=False), Segment)
        exact = [value if isinstance(value, int) else Decimal(value) for value in values]
        if any(isinstance(value, Decimal) and not value.is_finite() for value in exact):
            raise ValueError("a value is not finite")
        return dict(zip(keys, exact, strict=True))
    except (ValueError, TypeError, ArithmeticError, msgpack.exceptions.UnpackException) as error:
        raise Corrupt(f"a state segment cannot be read: {error}") from None


def _fits(value: Value) -> bool:
    return isinstance(value, int) and value.bit_length() < 64  # msgpack has no longer integers
