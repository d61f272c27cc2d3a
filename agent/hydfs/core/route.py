"""How a gateway finds the node that can take an append or tell a file's length, despite failures.

The register of the file names the open block and its coordinator. The coordinator is asked first. If it does
not (or no longer) coordinate the block, the register is read again; if it cannot be reached, one of the other
replicas is asked to seal the block. A file without an open block gets one from the first node of the ring,
which coordinates it from then on. The route only decides; the shell acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.hydfs.core import placement
from agent.hydfs.core.errors import MOVED, NOT_COORDINATOR
from agent.hydfs.core.filetable import BlockEntry, FileEntry

# Errors after which another node, or the same one a little later, may succeed.
LOST = ("UNREACHABLE", "CONNECTION_LOST", "DEADLINE_EXCEEDED", "PROTOCOL_ERROR")
AGAIN = (MOVED, NOT_COORDINATOR, "FENCED", "STALE_VIEW", "UNAVAILABLE", "NO_MAJORITY", "OVERLOADED")
PAUSE_S = 0.05
PAUSE_S_MAX = 0.4


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Step: read the register of the file (a majority read), after a pause when one is named."""

    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AskCoordinator:
    """Step: send the request to ``node``; ``number`` None asks it to open the next block first."""

    node: str
    number: int | None
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskSeal:
    """Step: have ``node`` seal block ``number``."""

    node: str
    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Step: nothing is left to try; answer with this error."""

    code: str
    message: str


Step = ReadFile | AskCoordinator | AskSeal | Stop


@dataclass(slots=True)
class Route:
    """The route of one request."""

    nodes: Sequence[str]
    lost: dict[str, None] = field(default_factory=dict)
    _refused: tuple[int, str] | None = None
    _full: int = 0
    _rounds: int = 0

    def found(self, entry: FileEntry) -> Step:
        """Decides what to do now that the register says ``entry``."""
        block = entry.open_block
        if block is None:
            chosen = placement.choose(entry.file_id, entry.next_number, self.nodes, 1, self.lost)
            return AskCoordinator(chosen[0], None, tuple(self.lost))
        coordinator = block.replicas[0]
        if coordinator in self.lost or self._refused == (block.number, block.session):
            return self._seal(block)
        return AskCoordinator(coordinator, block.number)

    def failed(
        self, step: AskCoordinator | AskSeal, entry: FileEntry, code: str, cause: str, failed: Sequence[str]
    ) -> Step:
        """Decides what to do after ``step`` was answered with ``code``. ``cause`` and ``failed`` are a
        coordinator's report about the replicas that failed.
        """
        self.lost.update({node: None for node in failed})
        if code in LOST:
            self.lost[step.node] = None
            block = entry.open_block
            return self._seal(block) if block is not None else self._again()
        if cause == "DISK_FULL":
            self._full += 1
            if self._full > len(self.nodes):
                return Stop("DISK_FULL", "no node has room for the data")
        if code == NOT_COORDINATOR and isinstance(step, AskCoordinator) and entry.open_block is not None:
            # Read again: if the block is still the open one, its coordinator has lost it in a restart.
            self._refused = (entry.open_block.number, entry.open_block.session)
        if code in AGAIN:
            return self._again(quick=code in (MOVED, NOT_COORDINATOR, "FENCED"))
        return Stop(code, "")

    def sealed(self) -> Step:
        """Decides what to do after the block was sealed; if it is still open, pauses first."""
        return self._again(quick=True)

    def _seal(self, block: BlockEntry) -> Step:
        for node in block.replicas[1:] + block.replicas[:1]:
            if node not in self.lost:
                return AskSeal(node, block.number)
        self.lost.clear()
        return self._again()

    def _again(self, *, quick: bool = False) -> Step:
        self._rounds += 1
        if quick and self._rounds <= 3:
            return ReadFile()
        return ReadFile(min(PAUSE_S_MAX, PAUSE_S * self._rounds))
