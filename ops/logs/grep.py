"""Searches many nodes at once: every node's agent runs grep on its own logs, and the output is streamed here.

One thread per node passes whole pieces to the caller through a short queue, so that a slow terminal slows
down the greps and nothing accumulates. If a node does not answer, an agent of another node searches that
node's collected logs in HyDFS instead. The result names the node, because lines not collected yet are
missing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from agent.common.errors import Internal, NotFound, RainStormError, Unreachable, UsageError
from agent.common.shell import clock
from agent.logs.messages import StartSearch, Summary
from agent.wire.codec.framing import Buffer
from ops.cluster.connections import Connections

# Pieces of up to a mebibyte wait here while the terminal is slow.
WAITING_PIECES_MAX = 32
OK, COLLECTED, DOWN = "ok", "down, searched its collected logs", "down"


@dataclass(slots=True)
class NodeResult:
    """The outcome of the search on one node."""

    node: str
    state: str = OK
    matches: int = 0
    lines: int = 0
    files: int = 0
    searched_bytes: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Tells whether all of the node's logs were searched."""
        return self.state == OK and not self.problems


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines printed by one node's grep."""

    node: str
    data: bytes


class ClusterSearch:
    """Runs one query on some nodes; iterate over it for the output, then read ``results``."""

    def __init__(
        self,
        connections: Connections,
        nodes: Sequence[str],
        query: StartSearch,
        *,
        collected: bool = False,
    ) -> None:
        self.results = [NodeResult(node) for node in nodes]
        self.refused: UsageError | None = None
        self._connections = connections
        self._query = query
        self._collected = collected
        self._stopping = threading.Event()
        self._waiting: queue.Queue[Piece | None] = queue.Queue(WAITING_PIECES_MAX)

    def __iter__(self) -> Iterator[Piece]:
        threads = [
            threading.Thread(target=self._run, args=(result,), name=f"grep-{result.node}", daemon=True)
            for result in self.results
        ]
        for thread in threads:
            thread.start()
        left = len(threads)
        try:
            while left:
                piece = self._waiting.get()
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            self._stopping.set()

    def _run(self, result: NodeResult) -> None:
        begun = clock.monotonic()
        try:
            if self._collected:
                self._search_collection(result, OK)
            else:
                self._search(result)
        except UsageError as error:
            self.refused, result.state = error, "refused"
        except NotFound as error:
            result.state = str(error)
        except RainStormError as error:
            result.state = f"interrupted: [{error.code}] {error.message}"
        except Exception as error:
            result.state = f"interrupted: {Internal(repr(error)).message}"
        result.seconds = round(clock.monotonic() - begun, 3)
        self._put(None)

    def _search(self, result: NodeResult) -> None:
        try:
            self._pass_on(result, self._connections.logs(result.node).search(self._query))
        except Unreachable as error:
            if result.lines:
                raise  # it stopped in the middle, and its collected logs would repeat what was printed
            try:
                self._search_collection(result, COLLECTED)
            except UsageError:
                raise
            except RainStormError as second:
                result.state = DOWN
                result.problems = [error.message, f"its collected logs: {second.message}"]

    def _search_collection(self, result: NodeResult, state: str) -> None:
        helper = self._connections.gateway("logs")
        query = replace(self._query, collected_of=result.node)
        result.state = state
        self._pass_on(result, self._connections.logs(helper).search(query))
        if not result.files and state != OK:
            result.state = f"{DOWN}, nothing collected"

    def _pass_on(self, result: NodeResult, pieces: Generator[Buffer, None, Summary]) -> None:
        rest = b""
        try:
            while not self._stopping.is_set():
                try:
                    data = rest + bytes(next(pieces))
                except StopIteration as ended:
                    self._note(result, ended.value)
                    return
                end = data.rfind(b"\n") + 1
                rest = data[end:]
                result.lines += data.count(b"\n")
                if end:
                    self._put(Piece(result.node, data[:end]))
        finally:
            pieces.close()
            if rest:
                self._put(Piece(result.node, rest + b"\n"))

    def _note(self, result: NodeResult, summary: Summary) -> None:
        result.matches, result.lines = summary.matches, summary.lines
        result.files, result.searched_bytes = summary.files, summary.searched_bytes
        result.problems = list(summary.problems)
        if summary.cut:
            result.problems.append(summary.cut)

    def _put(self, piece: Piece | None) -> None:
        # The reader may have stopped (Ctrl-C, head), so never wait indefinitely for space in the queue.
        while not self._stopping.is_set():
            try:
                self._waiting.put(piece, timeout=0.2)
                return
            except queue.Full:
                continue


def prefixed(piece: Piece) -> bytes:
    """Returns the lines of a piece, each prefixed with the node's name."""
    name = piece.node.encode() + b":"
    return name + piece.data[:-1].replace(b"\n", b"\n" + name) + b"\n"
