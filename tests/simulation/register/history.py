"""The operations of the register's clients and their results, and the rules that these must satisfy.

The value is the list of all appends in their order, and every operation returns it, so the check needs no
search: G1 of any two returned values one is a prefix of the other; G2 an operation that begins after another
has ended returns at least that one's value, and an append returns itself; G3 nothing is in the list
twice, and everything in it was appended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Invocation:
    """One operation of a client: ``name`` is None for a read; ``value`` is the result, if there was one."""

    client: str
    name: str | None
    began_at: float
    ended_at: float | None = None
    value: tuple[str, ...] | None = None


def check(history: list[Invocation]) -> list[str]:
    """Returns the violations in the history of one list that is appended to."""
    invoked = {found.name for found in history}
    known = [found for found in history if found.value is not None]
    longest: tuple[str, ...] = max((found.value or () for found in known), key=len, default=())
    if len(set(longest)) < len(longest):
        return [f"G3: something is in the list twice: {longest}"]
    if not set(longest) <= invoked:
        return [f"G3: a part of {longest} was never appended"]
    for found in known:
        value = found.value or ()
        if longest[: len(value)] != value:
            return [f"G1: {value} is not a prefix of {longest}"]
        if found.name is not None and found.name not in value:
            return [f"G2: {found} does not return itself"]
    for later in known:
        for earlier in known:
            assert earlier.ended_at is not None
            if earlier.ended_at < later.began_at and len(later.value or ()) < len(earlier.value or ()):
                return [f"G2: {later} began after {earlier} had ended"]
    return []
