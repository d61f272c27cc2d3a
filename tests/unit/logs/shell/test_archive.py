"""Searching collected logs: names, order, files that expire meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import NotFound, Unavailable
from agent.hydfs.client import FileStat, HydfsClient
from agent.logs.core.query import Query
from agent.logs.shell import archive
from agent.logs.shell.archive import Archive


class Store:
    """A HyDFS of names and contents."""

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("__", "/"): data for name, data in files.items()}
        self.fails: Exception | None = None

    def list(self, prefix: str = "", **_: Any) -> list[FileStat]:
        return [
            FileStat(name, f"id-{name}", len(data), ())
            for name, data in self.files.items()
            if name.startswith(prefix)
        ]

    def read(self, name: str, offset: int, length: int, **_: Any) -> bytes:
        if self.fails is not None:
            raise self.fails
        if name not in self.files:
            raise NotFound(f"there is no file {name}")
        return self.files[name][offset : offset + length]


def _archive(files: dict[str, bytes]) -> tuple[Store, Archive]:
    store = Store()
    store.files = dict(files)
    return store, Archive(cast(HydfsClient, store))


FILES = {
    ".logs/vm1/a.log/000002-20261121": b"third\n",
    ".logs/vm1/a.log/000001-20261120": b"first\nsecond\n",
    ".logs/vm1/b.log/000001-20261120": b"other\n",
    ".logs/vm1/stray": b"no log",
    ".logs/vm11/a.log/000001-20261120": b"another node's\n",
}


def _content(source: Any) -> bytes:
    entered = source.enter()
    return b"".join(entered.chunks)


def test_a_log_is_the_row_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "READ_BYTES", 4)
    _, found = _archive(FILES)
    sources = {each.label: each for each in found.sources(Query(b"x", collected_of="vm1"))}
    assert sorted(sources) == ["a.log", "b.log"]
    assert sources["a.log"].size == 19
    assert _content(sources["a.log"]) == b"first\nsecond\nthird\n"


def test_patterns_choose_logs() -> None:
    _, found = _archive(FILES)
    assert [each.label for each in found.sources(Query(b"x", files=("b*",), collected_of="vm1"))] == ["b.log"]
    assert found.sources(Query(b"x", collected_of="vm9")) == []


@pytest.mark.parametrize("name", ["", "../vm1", "vm1/a.log", "x" * 65, ".hidden"])
def test_what_is_not_the_name_of_a_node_is_refused(name: str) -> None:
    _, found = _archive(FILES)
    with pytest.raises(NotFound, match="not the name of a node"):
        found.logs(name)


def test_a_file_that_expires_meanwhile_is_left_out_and_one_that_is_shorter_ends() -> None:
    store, found = _archive(FILES)
    (source,) = found.sources(Query(b"x", files=("a.log",), collected_of="vm1"))
    del store.files[".logs/vm1/a.log/000001-20261120"]
    assert _content(source) == b"third\n"
    store.files[".logs/vm1/a.log/000002-20261121"] = b""
    assert _content(source) == b""


def test_a_store_that_does_not_answer_is_an_error_of_reading() -> None:
    store, found = _archive(FILES)
    (source,) = found.sources(Query(b"x", files=("a.log",), collected_of="vm1"))
    store.fails = Unavailable("no replica")
    with pytest.raises(OSError, match="000001-20261120 at 0: no replica"):
        _content(source)


def test_lines_outside_a_range_of_time_are_left_out(tmp_path: Path) -> None:
    line = b"2026-11-20T10:%02d:00Z x\n"
    _, found = _archive({".logs/vm1/a.log/000001-20261120": b"".join(line % n for n in range(9))})
    query = Query(b"x", since=1_795_168_800.0 + 300, until=1_795_168_800.0 + 420, collected_of="vm1")
    (source,) = found.sources(query)
    assert _content(source) == line % 5 + line % 6
