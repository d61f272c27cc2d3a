"""A store agent as a whole: it starts, serves, and leaves nothing behind."""

from __future__ import annotations

import io
from pathlib import Path

from tests.unit.hydfs.stores import Stores


def test_a_file_is_put_read_appended_listed_and_deleted(tmp_path: Path) -> None:
    with Stores(tmp_path) as stores:
        stores.start()
        data = bytes(range(256)) * 1000
        assert stores.hydfs("n1").put("a/one", io.BytesIO(data)).length == len(data)
        sink = io.BytesIO()
        assert stores.hydfs("n2").get("a/one", sink) == len(data)
        assert sink.getvalue() == data
        stores.hydfs("n3").create("a/two")
        first = stores.hydfs("n3").append("a/two", b"hello", writer="w", sequence=0)
        again = stores.hydfs("n1").append("a/two", b"hello", writer="w", sequence=0)
        assert (first.offset, first.copies, again.offset, again.duplicate) == (0, 3, 0, True)
        assert [stat.name for stat in stores.hydfs("n2").list("a/")] == ["a/one", "a/two"]
        assert stores.hydfs("n2").delete_prefix("a/") == 2
        assert stores.hydfs("n1").list() == []
