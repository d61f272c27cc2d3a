"""Transform: the named columns, in the order named."""

from __future__ import annotations

from agent.rainstorm.task.operators.filter import Filter
from agent.rainstorm.task.operators.transform import Transform
from tests.unit.rainstorm.rows import batch, rows_of

KV = ("k", "v")


def test_transform_takes_columns_in_the_order_named() -> None:
    """Columns may be reordered, dropped and repeated; a repeated one is found by its name afterwards."""
    found = Transform({"select": ["v", "v", "k"]}, KV).process(batch(KV, [b"1", b"2"]))
    assert rows_of(*found) == [(b"2", b"2", b"1")]
    again = Filter({"column": "v", "equals": "2"}, ("v", "v", "k")).process(found[0])
    assert rows_of(*Transform({"select": ["k", "v"]}, ()).process(again[0])) == [(b"1", b"2")]
