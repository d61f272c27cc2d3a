"""The parts of a logs agent that answer requests, on a Unix socket, for the tests of each of them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

from agent.common.config import LogsConfig
from agent.hydfs.client import HydfsClient
from agent.logs.client import LogsClient
from agent.logs.messages import StartSearch, Summary
from agent.logs.shell.archive import Archive
from agent.logs.shell.follower import Follower
from agent.logs.shell.searches import Searches
from agent.wire.client import Client
from agent.wire.endpoint import by_kind
from agent.wire.server import Server

LINES = b"".join(
    b"2026-11-20T10:%02d:00Z line %04d %s\n" % (n % 60, n, b"error" if n % 7 == 0 else b"fine")
    for n in range(600)
)
# With this many back references grep tries every way to cut a line.
CATASTROPHE = rb"^(.*)(.*)(.*)\3\2\1.\2..\3..\1$"
LETTERS = "".join(random.Random(1).choices("abcdefghij", k=2000)).encode() + b"\n"


class Place:
    """The parts of a logs agent that answer requests, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.client = Client(None)
        self.path = str(folder / "logs.sock")
        (folder / "system").write_bytes(b"root line\n")
        self.system = str(folder / "system")
        knobs = LogsConfig(journal_units=(), system_files=(self.system,), system_units=("cron",))
        hydfs = HydfsClient(self.client, str(folder / "none.sock"))
        self.searches = Searches(self.logs, knobs, Archive(hydfs))
        self.follower = Follower(self.logs, ())
        self.server = Server("logs", by_kind(*self.searches.endpoints(), self.follower.endpoint()))
        self.server.listen_unix(self.path)
        self.agent = LogsClient(self.client, self.path)

    def search(self, pattern: bytes, **fields: Any) -> tuple[bytes, Summary]:
        """Returns the output and the summary of a search."""
        pieces = self.agent.search(StartSearch("-", pattern, **fields))
        found = b""
        while True:
            try:
                found += bytes(next(pieces))
            except StopIteration as ended:
                return found, ended.value

    def grep(self, *words: str) -> bytes:
        """Returns what grep prints for ``a.log``."""
        command = ["grep", "-a", "-H", "--label=a.log", *words]
        with open(self.logs / "a.log", "rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=False)
        return done.stdout

    def close(self) -> None:
        self.follower.stop()
        self.client.close()
        self.server.stop()
        self.searches.stop(5.0)
