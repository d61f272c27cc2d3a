"""A gateway's knowledge about files, and how it reaches the node that knows more.

A read of the open end asks its coordinator first and the register afterwards. If the register (a majority
read) still names that block as the open one, no node had sealed it when the coordinator answered, so the
answer was the newest. That makes lengths and reads linearizable without leases.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, assert_never

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, NotFound, RainStormError, Unavailable
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED
from agent.hydfs.core.errors import Moved, code_of, error_of
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.placement import block_token
from agent.hydfs.core.route import LOST, AskCoordinator, AskSeal, ReadFile, Route, Step, Stop
from agent.hydfs.messages import block as messages
from agent.hydfs.messages.file import BlockStat, Described, FileStat
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.view import ViewSource
from agent.wire.register.proposer import Registers

# The number of files whose entry a gateway remembers; a few jobs have some hundreds.
ENTRIES_MAX = 4096
# Blocks in one answer: with three names of 64 characters each, 1.5 megabytes of the four that a header may
# have.
BLOCKS_PAGE = 5000

A = TypeVar("A")


class FileTable:
    """The file table as one gateway sees it."""

    def __init__(
        self, peers: Peers, registers: Registers, views: ViewSource, *, ack_timeout_s: float
    ) -> None:
        self._peers = peers
        self._registers = registers
        self._views = views
        self._ack_timeout = ack_timeout_s
        self._entries: OrderedDict[str, FileEntry] = OrderedDict()
        self._lock = threads.lock()
        self._pause = threads.event()

    def close(self) -> None:
        """Wakes requests that wait for their next attempt."""
        self._pause.set()

    def entry(self, name: str, deadline: Deadline) -> FileEntry:
        """Returns a file's entry in the file table, by a majority read.

        Raises:
            NotFound: there is no such file.
        """
        timeout_s = deadline.require(clock.monotonic(), f"file {name!r}")
        try:
            found = filetable.live(name, self._registers.read(name, timeout_s=timeout_s))
        except NotFound:
            self.forget(name)
            raise
        self.remember(name, found)
        return found

    def stat(self, name: str, deadline: Deadline) -> FileStat:
        """Returns the file's length and blocks; the length is linearizable."""
        entry, length = self.settle(name, deadline)
        return describe(name, entry, length)

    def follow(
        self,
        name: str,
        deadline: Deadline,
        ask: Callable[[AskCoordinator, FileEntry], A],
    ) -> A:
        """Returns the answer of the node that can give it, found by a ``Route``.

        Raises:
            DeadlineExceeded: no node answered in time; the outcome of the last attempt is unknown.
        """
        route = Route(self._views.current().up_names())
        entry = self.known(name)
        fresh = entry is None
        if entry is None:
            entry = self.entry(name, deadline)
        step = route.found(entry)
        last: RainStormError | None = None
        while True:
            if deadline.expired(clock.monotonic()):
                raise self._too_late(name, last)
            try:
                match step:
                    case ReadFile(pause_s=pause_s):
                        if pause_s and self._pause.wait(min(pause_s, deadline.remaining(clock.monotonic()))):
                            raise Unavailable("the agent is stopping")
                        route.nodes = self._views.current().up_names()
                        entry = self.entry(name, deadline)
                        fresh = True
                        step = route.found(entry)
                    case AskCoordinator():
                        return ask(step, entry)
                    case AskSeal():
                        self.ask_seal(name, entry, step)
                        step = route.sealed()
                    case Stop(code=code, message=message):
                        raise last if last is not None and code_of(last) == code else error_of(code, message)
                    case _:
                        assert_never(step)
            except RainStormError as error:
                if not isinstance(step, AskCoordinator | AskSeal):
                    if isinstance(error, DeadlineExceeded) and last is not None:
                        raise self._too_late(name, last) from None
                    raise
                last = error
                if isinstance(error, NotFound) and not fresh:
                    step = ReadFile()
                    continue
                step = self._next_step(name, route, step, entry, error)

    def _next_step(
        self,
        name: str,
        route: Route,
        step: AskCoordinator | AskSeal,
        entry: FileEntry,
        error: RainStormError,
    ) -> Step:
        code = code_of(error)
        moved = Moved.of(error)
        if code in LOST:
            self._peers.suspect(step.node)
            # A silent coordinator uses up the time of a short request. The next one must not begin with it
            # again: others may have sealed its block long ago.
            self.forget(name)
        following = route.failed(step, entry, code, moved.cause, moved.failed)
        if isinstance(following, Stop) and following.code == code:
            raise error
        return following

    def ask_seal(self, name: str, entry: FileEntry, step: AskSeal) -> None:
        """Has a replica seal a block."""
        request = messages.Seal(entry.file_id, step.number, name)
        self._peers.ask(step.node, request, timeout_s=3.0 * self._ack_timeout)

    def _too_late(self, name: str, last: RainStormError | None) -> RainStormError:
        why = f"; the last attempt failed with: {last.message}" if last is not None else ""
        return DeadlineExceeded(f"{name!r}: no replica could do it in time{why}", hint="fab status")

    def settle(self, name: str, deadline: Deadline) -> tuple[FileEntry, int]:
        """Returns the file and its committed length, both as of the same moment."""
        while True:
            entry = self.known(name) or self.entry(name, deadline)
            tail = 0
            if entry.open_block is not None:
                entry, tail = self._ask_tail(name, entry, deadline)
            now = self.entry(name, deadline)
            if same_end(entry, now):
                return now, now.sealed_length + tail
            if now.open_block is None:
                return now, now.sealed_length

    def _ask_tail(self, name: str, entry: FileEntry, deadline: Deadline) -> tuple[FileEntry, int]:
        seen = [entry]

        def ask(step: AskCoordinator, found: FileEntry) -> int:
            seen[0] = found
            if step.number is None:
                return 0  # nothing is open: the file table knows the length
            request = messages.AskTail(found.file_id, step.number)
            return self._peers.ask(step.node, request, timeout_s=self._ack_timeout).message.length

        length = self.follow(name, deadline, ask)
        return seen[0], length

    def known(self, name: str) -> FileEntry | None:
        """Returns the entry that was read last; it may be out of date."""
        with self._lock:
            return self._entries.get(name)

    def remember(self, name: str, entry: FileEntry) -> None:
        """Keeps an entry of the file table."""
        with self._lock:
            self._entries[name] = entry
            self._entries.move_to_end(name)
            if len(self._entries) > ENTRIES_MAX:
                self._entries.popitem(last=False)

    def forget(self, name: str) -> None:
        """Forgets the entry of a file."""
        with self._lock:
            self._entries.pop(name, None)


def same_end(one: FileEntry, other: FileEntry) -> bool:
    """Tells whether both have the same open block, or none and the same chain."""
    if one.file_id != other.file_id or (one.open_block is None) != (other.open_block is None):
        return False
    if one.open_block is None or other.open_block is None:
        return one.next_number == other.next_number
    return one.open_block.session == other.open_block.session


def describe(name: str, entry: FileEntry, length: int) -> FileStat:
    """Returns the file as a client sees it."""
    blocks = []
    start = 0
    for block in entry.blocks:
        size = block.length if block.state == SEALED else length - start
        place = ring_id(block_token(entry.file_id, block.number))
        blocks.append(BlockStat(block.number, start, size, block.replicas, block.state, place))
        start += size
    return FileStat(name, entry.file_id, length, tuple(blocks))


def answer(stat: FileStat, *, paged: bool, after: int | None = None, room: int | None = None) -> Described:
    """Returns a page of a file's blocks, those behind ``after``; all of these for a client that does not know
    of pages. ``room`` is how many blocks the page has, when it is not one of its own.
    """
    blocks = [block for block in stat.blocks if after is None or block.number > after]
    shown = blocks[: BLOCKS_PAGE if room is None else room] if paged else blocks
    return Described(replace(stat, blocks=tuple(shown)), more=len(shown) < len(blocks))


def ring_id(token: int) -> str:
    """Returns a place on the ring as eight hexadecimal digits."""
    return f"{token:08x}"
