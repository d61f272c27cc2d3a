"""The store's protocol played from texts: appends, sealing a block and rolling to the next one, take-overs.

Every node is a ``NodeCore``. Nothing happens by itself: the text decides which messages arrive, which disk
flushes, and when the file table answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.common.core import Tick
from agent.common.errors import RainStormError
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockKey
from agent.hydfs.core.errors import FoundLength, Moved
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AnswerWrite,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    BlockSealed,
    Effect,
    Event,
    NodeLost,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    SealBlock,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.node import NodeCore
from agent.hydfs.core.takeover import AskPromise, Fail, PromiseFailed, PromiseReceived, Takeover
from tests.scenarios import Command, play

FOLDER = Path(__file__).parent / "scenarios"
ACK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Sender:
    """The token of a record: the coordinator that sent it, and the block."""

    name: str
    key: BlockKey


class Store:
    """Nodes a to e and the file ``f``; commands are methods."""

    def __init__(self) -> None:
        self.now = 0.0
        self.value = filetable.create("f", "id", "all")(None)
        self.nodes = {name: self._node(name) for name in "abcde"}
        # The messages on their way to each node, and the writes on their way to each node's disk.
        self.messages: dict[str, list[Event]] = {name: [] for name in self.nodes}
        self.disks: dict[str, list[Event]] = {name: [] for name in self.nodes}
        self.seals: list[SealBlock] = []
        self.down: set[str] = set()
        self.promises: dict[str, AnswerPromise] = {}

    @staticmethod
    def _node(name: str) -> NodeCore:
        return NodeCore(name, [], block_size_bytes=100, ack_timeout_s=ACK_TIMEOUT_S)

    def carry_out(self, command: Command) -> Iterable[str]:
        """Carries out a command and returns the result."""
        do: Callable[[Command], Iterable[str]] = getattr(self, f"do_{command.name}")
        found = list(do(command))
        for node in self.nodes.values():
            node.check_invariants()
        return found

    def do_file(self, command: Command) -> Iterable[str]:
        """Makes the file again, with another kind of acknowledgement."""
        self.value = filetable.create("f", "id", command.words[0])(None)
        return self.do_table(command)

    def do_open(self, command: Command) -> Iterable[str]:
        """Lets a node open the next block, with itself as the coordinator."""
        (name,) = command.words
        session = f"{name}/{self._entry().next_number}"
        self.value = filetable.open_next("f", "id", command.list_of("on"), 1, session)(self.value)
        entry = self._entry()
        block = entry.open_block
        assert block is not None
        if block.session == session:
            key = ("id", block.number)
            self._feed(
                name,
                BlockOpened(
                    key, "f", session, block.replicas, entry.ack, entry.sealed_length, dict(entry.writers), 1
                ),
            )
        return self.do_table(command)

    def do_append(self, command: Command) -> Iterable[str]:
        """Asks a node to append: writer, sequence, data, perhaps the number of the block and if_offset."""
        name, options = command.words[0], command.options
        block = self._entry().open_block
        number = int(options["block"]) if "block" in options else block.number if block is not None else 0
        wanted = options.get("if_offset")
        token = f"{options['writer']}/{options['sequence']}"
        event = AppendRequested(
            token,
            ("id", number),
            options["writer"],
            int(options["sequence"]),
            None if wanted is None else int(wanted),
            options["data"].encode(),
        )
        return self._feed(name, event)

    def do_tail(self, command: Command) -> Iterable[str]:
        """Asks a node how far the open block is committed."""
        block = self._entry().open_block
        assert block is not None
        return self._feed(command.words[0], TailRequested("reader", ("id", block.number)))

    def do_deliver(self, command: Command) -> Iterable[str]:
        """Lets all messages to a node arrive."""
        (name,) = command.words
        messages, self.messages[name] = self.messages[name], []
        return [line for event in messages for line in self._feed(name, event)]

    def do_lose_messages(self, command: Command) -> Iterable[str]:
        """Loses all messages to a node."""
        self.messages[command.words[0]].clear()
        return []

    def do_flush(self, command: Command) -> Iterable[str]:
        """Lets a node's disk finish its writes; ``code=`` makes it refuse them."""
        (name,) = command.words
        code = command.options.get("code", "")
        written, self.disks[name] = self.disks[name], []
        lines: list[str] = []
        for event in written:
            match event:
                case RecordWritten(key=key, end=end):
                    lines += self._feed(name, RecordWritten(key, end, code))
                case PromiseWritten(key=key):
                    lines += self._feed(name, PromiseWritten(key, code))
        return lines

    def do_lost(self, command: Command) -> Iterable[str]:
        """Tells a node that another one is down."""
        return self._feed(command.words[0], NodeLost(command.words[1]))

    def do_wait(self, command: Command) -> Iterable[str]:
        """Lets time pass for a node."""
        self.now += float(command.options["seconds"])
        return self._feed(command.words[0], Tick())

    def do_crash(self, command: Command) -> Iterable[str]:
        """Crashes a node, which loses its memory."""
        (name,) = command.words
        self.down.add(name)
        self.nodes[name] = self._node(name)
        self.messages[name].clear()
        self.disks[name].clear()
        return []

    def do_seal(self, command: Command) -> Iterable[str]:
        """Lets the file table make the change that a node asked for, and tells the replicas that are up."""
        lines: list[str] = []
        for effect in self.seals:
            change = filetable.seal(
                "f", "id", effect.key[1], effect.length, effect.crc, effect.holders, effect.writers
            )
            try:
                self.value = change(self.value)
            except RainStormError as error:
                return [f"table: refused {error.code}"]
            lines += self.do_table(command)
            lines += self._certify(effect.key)
        self.seals.clear()
        return lines

    def do_takeover(self, command: Command) -> Iterable[str]:
        """Seals the open block without its coordinator, by promises of its replicas."""
        block, entry = self._entry().open_block, self._entry()
        assert block is not None
        key = ("id", block.number)
        takeover = Takeover(key, "f", block.replicas, entry.ack, entry.sealed_length, timeout_s=1.0)
        lines: list[str] = []
        effects = takeover.start(self.now)
        while effects:
            effect, *effects = effects
            match effect:
                case AskPromise(peer=peer):
                    lines += self._promise(peer, key)
                    effects += takeover.handle(self.now, self._promised(peer))
                case SealBlock():
                    self.seals.append(effect)
                    lines.append(_shown("take-over", effect))
                case Fail(code=code, message=message):
                    lines.append(f"take-over: fails with {code}: {message}")
        return lines

    def do_table(self, command: Command) -> Iterable[str]:
        """Shows the file table."""
        entry = self._entry()
        lines = [f"table: {entry.state} ack={entry.ack} length={entry.sealed_length}"]
        for block in entry.blocks:
            lines.append(f"  block {block.number} {block.state} {block.length} on {','.join(block.replicas)}")
        lines += [f"  writer {writer} at {mark}" for writer, mark in entry.writers.items()]
        return lines

    def _entry(self) -> FileEntry:
        return filetable.live("f", self.value)

    def _certify(self, key: BlockKey) -> list[str]:
        block = self._entry().block(key[1])
        lines = []
        for name in self.nodes:
            if name in self.down:
                continue
            if block is None:
                lines += self._feed(name, BlockDropped(key))
            else:
                lines += self._feed(name, BlockSealed(key, "f", block.length, block.crc))
        return lines

    def _promise(self, peer: str, key: BlockKey) -> list[str]:
        self.promises.pop(peer, None)
        if peer in self.down:
            return [f"{peer}: does not answer"]
        lines = self._feed(peer, PromiseRequested("sealer", key, "f"))
        return [*lines, *self.do_flush(Command("flush", (peer,)))]

    def _promised(self, peer: str) -> PromiseReceived | PromiseFailed:
        found = self.promises.get(peer)
        if found is None:
            return PromiseFailed(peer)
        return PromiseReceived(peer, found.length, found.crc, found.writers, found.doubtful)

    def _feed(self, name: str, event: Event) -> list[str]:
        lines = []
        for effect in self.nodes[name].handle(self.now, event):
            self._take(name, effect)
            lines.append(_shown(name, effect))
        return lines

    def _take(self, name: str, effect: Effect) -> None:
        match effect:
            case SendWrite(peer=peer, key=key, session=session, record=record, data=data):
                sender = Sender(name, key)
                self.messages[peer].append(WriteReceived(sender, key, "f", session, record, data))
            case PersistRecord(key=key, record=record):
                self.disks[name].append(RecordWritten(key, record.end))
            case PersistPromise(key=key):
                self.disks[name].append(PromiseWritten(key))
            case SealBlock():
                self.seals.append(effect)
            case AnswerWrite(token=Sender(name=coordinator, key=key), end=end, code=code):
                self.messages[coordinator].append(WriteAnswered(name, key, end, code))
            case AnswerPromise():
                self.promises[name] = effect


def _shown(name: str, effect: Effect) -> str:
    """Returns an effect of a node as a line for people."""
    match effect:
        case SendWrite(peer=peer, record=record):
            return f"{name} -> {peer}: write {record.offset}-{record.end}"
        case PersistRecord(record=record):
            return f"{name}: persist {record.offset}-{record.end}"
        case PersistPromise():
            return f"{name}: persist a promise"
        case SealBlock(key=key, length=length, holders=holders, failed=failed):
            lost = f", failed {','.join(failed)}" if failed else ""
            return f"{name}: seal block {key[1]} at {length}, held by {','.join(holders) or 'nobody'}{lost}"
        case AnswerWrite(token=token, end=end, code=code):
            return f"{name} -> {token.name}: {code or f'durable up to {end}'}"
        case AnswerAppend(token=token, offset=offset, length=length, copies=copies, duplicate=duplicate):
            kind = "duplicate" if duplicate else "appended"
            return f"{name} -> {token}: {kind} {offset}+{length}, {copies} copies"
        case AnswerTail(token=token, length=length):
            return f"{name} -> {token}: committed up to {length}"
        case AnswerPromise(length=length, doubtful=doubtful):
            return f"{name} -> sealer: promised at {length}{', doubtful' if doubtful else ''}"
        case Refuse(token=token, code=code, details=details):
            match details:
                case Moved(failed=failed):
                    return f"{name} -> {token}: {code}, failed {','.join(failed) or 'nobody'}"
                case FoundLength(length=length):
                    return f"{name} -> {token}: {code}, the file has {length}"
                case None:
                    return f"{name} -> {token}: {code}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    play(path, Store().carry_out)


def test_a_text_that_says_something_else_is_red(tmp_path: Path) -> None:
    """So is a command without its line of dashes."""
    path = tmp_path / "wrong.txt"
    path.write_text("# a comment\ntable\n----\ntable: live ack=none length=7\n", "utf-8")
    with pytest.raises(AssertionError, match=r"wrong.txt:2: table"):
        play(path, Store().carry_out)
    path.write_text("table\n", "utf-8")
    with pytest.raises(AssertionError, match="no line of dashes"):
        play(path, Store().carry_out)
