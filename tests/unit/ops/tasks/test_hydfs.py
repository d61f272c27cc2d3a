"""``fab list`` over a listing of many pages, and its message about files with a damaged entry."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from invoke.context import Context

from agent.hydfs.client import HydfsClient
from agent.hydfs.messages.file import BlockStat, FileStat, Listed, ListFiles
from agent.wire.client import Answered
from ops.tasks import hydfs

FILES, PAGE = 2_000, 70


class Table:
    """Agents whose file table has many files; stands in for the wire and for the connections."""

    damaged = ("bad", ".rainstorm/bad")

    def hydfs(self) -> HydfsClient:
        """Returns a client of the agents."""
        wire: Any = self
        return HydfsClient(wire, "agent")

    def ask(self, target: str, request: ListFiles, payload: Any = b"", *, timeout_s: float) -> Answered[Any]:
        """Answers with a page."""
        begin = int(request.after or -1) + 1
        names = [f"{number:06d}" for number in range(begin, min(begin + PAGE, FILES))]
        files = tuple(
            FileStat(name, f"id{name}", 6, (BlockStat(0, 0, 6, ("vm1",), "sealed"),)) for name in names
        )
        following = names[-1] if begin + PAGE < FILES else ""
        return Answered(Listed(files, () if begin else self.damaged, following), b"")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def connected(_: Any) -> Iterator[Table]:
        yield Table()

    monkeypatch.setattr(hydfs, "connected", connected)
    monkeypatch.setattr(hydfs, "_find", lambda _: None)


def test_a_listing_has_the_files_of_all_pages(capsys: pytest.CaptureFixture[str]) -> None:
    hydfs.list_(Context())
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert rows[0] == ["name", "bytes", "blocks"]
    assert [row[0] for row in rows[1:]] == [f"{number:06d}" for number in range(FILES)]
    (told,) = printed.err.splitlines()
    assert told == "damaged: the file table holds no valid entry for bad; its bytes cannot be read"


def test_json_names_damaged_files_too(capsys: pytest.CaptureFixture[str]) -> None:
    hydfs.list_(Context(), all=True, json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == FILES
    assert found["damaged"] == ["bad", ".rainstorm/bad"]
