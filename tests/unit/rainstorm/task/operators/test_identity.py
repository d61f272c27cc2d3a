"""Identity: every tuple passes unchanged."""

from __future__ import annotations

from agent.rainstorm.task.operators.identity import Identity
from tests.unit.rainstorm.rows import batch


def test_every_tuple_goes_on_as_it_came() -> None:
    """Order and columns stay."""
    rows = batch(("k", "v"), [b"a", b"1"], [b"a", b"1"], [b"", b""])
    assert Identity({}, ("k", "v")).process(rows) == [rows]
