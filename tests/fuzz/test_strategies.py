"""The strategies of the fuzz tests: valid fields are accepted, and spoilt ones are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from agent.common import message
from agent.common.message import Counter, Duration, Name
from tests.fuzz.strategies import check, hostile, junk, valid


@dataclass(frozen=True, slots=True)
class Part:
    """A message within a message."""

    key: tuple[Name, Counter]
    state: Literal["open", "sealed"]
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Whole:
    """A message with a field of each kind that messages use."""

    name: Name
    wait_s: Duration
    number: Counter | None
    parts: Annotated[tuple[Part, ...], Meta(max_length=9)]
    marks: dict[Name, tuple[Counter, Counter]] = field(default_factory=dict)
    ready: bool = False
    anything: Any = None


@given(valid(Whole))
def test_valid_fields_pass(fields: dict[str, Any]) -> None:
    """Fields that are drawn as valid are accepted."""
    message.decode(Whole, fields)


@given(hostile(Whole))
@settings(max_examples=300)
def test_hostile_fields_are_refused_or_valid(fields: Any) -> None:
    """Hostile fields give InvalidMessage or a message, and nothing else."""
    check(Whole, fields)


@given(junk())
@settings(max_examples=300)
def test_junk_is_refused(value: Any) -> None:
    """A required field refuses every value of another type."""
    assert check(Part, value) is None


@given(st.data())
@settings(max_examples=20)
def test_hostile_fields_are_mostly_refused(data: st.DataObject) -> None:
    """Spoiling works: of many messages drawn together, some are refused."""
    drawn = [data.draw(hostile(Whole)) for _ in range(12)]
    assert any(check(Whole, fields) is None for fields in drawn)
