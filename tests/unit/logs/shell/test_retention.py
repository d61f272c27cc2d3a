"""The collected logs that are kept: by age, by size, and always the newest file of each log."""

from __future__ import annotations

import builtins
from typing import Any, cast

import pytest

from agent.common.config import LogsConfig
from agent.common.errors import Unavailable
from agent.hydfs.client import FileStat, HydfsClient
from agent.logs.shell import retention
from agent.logs.shell.retention import Retention


class Store:
    """A HyDFS of names and lengths."""

    def __init__(self, *names: str, length: int = 400) -> None:
        self.files = {f".logs/vm1/{name}": length for name in names}
        self.files[".logs/vm11/a/1-20200101"] = 10**9
        self.fails = False
        self.lists = 0

    def list(self, prefix: str) -> list[FileStat]:
        self.lists += 1
        if self.fails:
            raise Unavailable("no replica")
        return [FileStat(name, "id", n, ()) for name, n in self.files.items() if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        del self.files[name]

    def kept(self) -> builtins.list[str]:
        """Returns the names of the node's remaining files."""
        return sorted(name.removeprefix(".logs/vm1/") for name in self.files if name.startswith(".logs/vm1/"))


def _retention(store: Store, **knobs: Any) -> Retention:
    return Retention("vm1", LogsConfig(**knobs), cast(HydfsClient, store))


def test_old_files_go_unless_they_are_the_newest_of_their_log() -> None:
    store = Store("a/1-20200101", "a/2-29990101", "b/1-20200101")
    _retention(store, collected_days=14).run()
    assert store.kept() == ["a/2-29990101", "b/1-20200101"]
    assert ".logs/vm11/a/1-20200101" in store.files, "another node's"


def test_beyond_the_size_the_oldest_days_go_first() -> None:
    store = Store("a/1-29990101", "a/2-29990103", "a/3-29990104", "b/1-29990102", "b/2-29990105")
    _retention(store, collected_bytes=1300).run()
    assert store.kept() == ["a/2-29990103", "a/3-29990104", "b/2-29990105"]


def test_it_runs_once_in_a_while_and_a_failure_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Store("a/1-20200101", "a/2-29990101")
    store.fails = True
    found = _retention(store)
    for _ in range(3):
        found.run()
    assert store.lists == 1
    assert "retention_waits error=no replica" in caplog.text
    store.fails = False
    monkeypatch.setattr(retention, "INTERVAL_S", 0.0)
    found.run()
    assert store.kept() == ["a/2-29990101"]
