"""Finds where records begin and end in raw bytes.

In format ``lines`` a record ends with a line feed. In format ``csv`` (RFC 4180) a line feed inside quotes is
part of the record, so a byte range alone does not tell whether its first byte lies inside quotes: the parity
of all quotes before it does. Tasks count the quotes of their splits at the start (``bytes.count`` runs at
memory speed), the leader sums them up, and every split knows its parity: nothing is guessed. A byte-order
mark at the start of a file is not data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.rainstorm.job.plan import Split
from agent.wire.codec.framing import Buffer

BOM = b"\xef\xbb\xbf"
LINE_FEED = b"\n"
QUOTE = b'"'


def first_end(
    data: bytes | bytearray, begin: int, *, quoted: bool, inside: bool = False, origin: int = 0
) -> int:
    """Returns the offset just after the first record end at or after ``begin``, or -1 when there is none.

    Args:
        quoted: line feeds inside quotes do not count.
        inside: whether ``data[origin]`` lies inside quotes.
        origin: the offset that ``inside`` refers to; not after ``begin``.
    """
    at = begin
    parity = inside
    counted = origin
    while True:
        found = data.find(LINE_FEED, at)
        if found < 0:
            return -1
        if not quoted:
            return found + 1
        parity ^= bool(data.count(QUOTE, counted, found) & 1)
        counted = found
        if not parity:
            return found + 1
        at = found + 1


def last_end(data: bytes | bytearray, *, quoted: bool) -> int:
    """Returns the offset just after the last record end in ``data``, which begins at a record, or 0."""
    found = data.rfind(LINE_FEED)
    if not quoted or found < 0:
        return found + 1
    inside = bool(data.count(QUOTE, 0, found) & 1)
    while inside:
        before = data.rfind(LINE_FEED, 0, found)
        if before < 0:
            return 0
        inside ^= bool(data.count(QUOTE, before, found) & 1)
        found = before
    return found + 1


def quotes(data: Buffer) -> int:
    """Returns the number of quote characters."""
    return data.count(QUOTE) if isinstance(data, bytes | bytearray) else bytes(data).count(QUOTE)


def parities(splits: Sequence[Split], quotes: Mapping[int, int]) -> dict[int, bool]:
    """Returns for each split whether the byte before it lies inside quotes; ``quotes`` counts per split."""
    inside: dict[int, bool] = {}
    total = 0
    for split in splits:
        inside[split.index] = bool(total & 1)
        total += quotes.get(split.index, 0)
    return inside
