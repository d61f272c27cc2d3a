"""The logs that nodes collected into HyDFS, as sources of a search.

A log of a node is a series of files ``.logs/<node>/<log>/<number>-<day>``; one after the other they are the
log's lines in order, byte by byte.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Generator

from agent.common.errors import NotFound, RainStormError
from agent.hydfs.client import FileStat, HydfsClient
from agent.logs.core.query import Query
from agent.logs.shell.search import Entered, Source, entered_stream

PREFIX = ".logs/"
READ_BYTES = 1024 * 1024
READ_TIMEOUT_S = 10.0
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Archive:
    """Reads collected logs."""

    def __init__(self, hydfs: HydfsClient) -> None:
        self._hydfs = hydfs

    def logs(self, node: str) -> dict[str, list[FileStat]]:
        """Returns the files of each log of a node, in order.

        Raises:
            NotFound: it is not the name of a node.
        """
        if not NODE.fullmatch(node):
            raise NotFound(f"{node[:60]!r} is not the name of a node", hint="fab status")
        found: dict[str, list[FileStat]] = {}
        for stat in sorted(self._hydfs.list(f"{PREFIX}{node}/"), key=lambda each: each.name):
            parts = stat.name.split("/")
            if len(parts) == 4:
                found.setdefault(parts[2], []).append(stat)
        return found

    def sources(self, query: Query) -> list[Source]:
        """Returns the collected logs of ``query.collected_of`` that the query's patterns choose."""
        return [
            Source(log, sum(stat.length for stat in files), functools.partial(self._enter, files, query))
            for log, files in self.logs(query.collected_of).items()
            if not query.files or any(fnmatch.fnmatchcase(log, pattern) for pattern in query.files)
        ]

    def _enter(self, files: list[FileStat], query: Query) -> Entered:
        # Collected lines carry full dates; syslog's short ones are read as of the range itself.
        return entered_stream(self._read(files), query, query.until or query.since or 0.0)

    def _read(self, files: list[FileStat]) -> Generator[bytes, None, None]:
        for stat in files:
            offset = 0
            while offset < stat.length:
                size = min(READ_BYTES, stat.length - offset)
                try:
                    data = bytes(
                        self._hydfs.read(
                            stat.name, offset, size, file_id=stat.file_id, timeout_s=READ_TIMEOUT_S
                        )
                    )
                except NotFound:
                    break  # it has just expired
                except RainStormError as error:
                    raise OSError(f"{stat.name} at {offset}: {error}") from None
                if not data:
                    break
                offset += len(data)
                yield data
