"""A client and its gateway on a simulated node: ``Route`` and a proposer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.common.errors import NotFound, RainStormError
from agent.hydfs.core import filetable
from agent.hydfs.core.block import (
    SEALED,
)
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.route import AskCoordinator, AskSeal, ReadFile, Route, Step, Stop
from tests.simulation.hydfs_rpc import (
    ACK_TIMEOUT_S,
    CALL_TIMEOUT_S,
    Caller,
    Fields,
    Reply,
)
from tests.simulation.world import Node

WENT_ON = "an append met a full disk and went on elsewhere"


class ClientHost(Caller):
    """A client and its gateway."""

    def __init__(self, node: Node, names: Sequence[str]) -> None:
        super().__init__(node, names)
        self.names = list(names)
        self.entries: dict[str, FileEntry] = {}

    def next_deadline(self) -> float | None:
        return None

    def on_timer(self, now: float) -> None:
        raise AssertionError("a client has no timer")

    def on_unreachable(self, now: float, target: str) -> None:
        raise AssertionError("a client sends datagrams only")

    def check_invariants(self) -> None:
        """A client has none."""

    def create(self, name: str, file_id: str, ack: str, done: Callable[[str], None]) -> None:
        change = filetable.create(name, file_id, ack)
        self.change(name, change, lambda entry, error: done(error.code if error is not None else ""))

    def append(
        self, name: str, data: bytes, writer: str, sequence: int, timeout_s: float, done: Reply
    ) -> None:
        def ask(step: AskCoordinator, entry: FileEntry, answered: Reply) -> None:
            fields = {
                "name": name,
                "file_id": entry.file_id,
                "number": step.number,
                "next": entry.next_number,
                "avoid": list(step.avoid),
                "writer": writer,
                "sequence": sequence,
                "if_offset": None,
            }
            self.call(step.node, "append", fields, data, 3 * ACK_TIMEOUT_S, answered)

        _Following(self, name, timeout_s, ask, done).start()

    def read_file(self, name: str, timeout_s: float, done: Reply) -> None:
        """Reads the whole file, linearizably."""
        until = self.node.now + timeout_s

        def again() -> None:
            if self.node.now >= until:
                done("DEADLINE_EXCEEDED", {}, b"")
            else:
                self.node.after(0.02, begin)

        def begin() -> None:
            self.read(name, lambda entry, error: tail(entry) if error is None else again())

        def tail(entry: FileEntry | None) -> None:
            if entry is None:
                done("NOT_FOUND", {}, b"")
            elif entry.open_block is None:
                fetch(entry, 0, 0, b"")
            else:
                _Following(self, name, 2.0, ask_tail, lambda c, f, p: checked(c, f)).start()

        def ask_tail(step: AskCoordinator, entry: FileEntry, answered: Reply) -> None:
            if step.number is None:
                answered("", {"length": 0, "session": ""}, b"")
                return
            assert entry.open_block is not None
            session = entry.open_block.session

            def got(code: str, fields: Fields, payload: bytes) -> None:
                answered(code, {**fields, "session": session}, payload)

            fields = {"file_id": entry.file_id, "number": step.number}
            self.call(step.node, "tail", fields, b"", CALL_TIMEOUT_S, got)

        def checked(code: str, fields: Fields) -> None:
            def settled(entry: FileEntry | None, error: RainStormError | None) -> None:
                if entry is None or error is not None or code:
                    again()
                elif entry.open_block is None:
                    fetch(entry, 0, 0, b"")
                elif entry.open_block.session == fields["session"]:
                    fetch(entry, 0, fields["length"], b"")
                else:
                    again()

            self.read(name, settled)

        def fetch(entry: FileEntry, index: int, end: int, got: bytes) -> None:
            if index == len(entry.blocks):
                done("", {}, got)
                return
            block = entry.blocks[index]
            length = block.length if block.state == SEALED else end
            if not length:
                fetch(entry, index + 1, end, got)
                return
            node = self.node.random("reads").choice(block.replicas)

            def received(code: str, fields: Fields, payload: bytes) -> None:
                if code:
                    again()
                else:
                    fetch(entry, index + 1, end, got + payload)

            body = {"key": [entry.file_id, block.number], "length": length}
            self.call(node, "read", body, b"", CALL_TIMEOUT_S, received)

        begin()

    def serve(self, kind: str, fields: Fields, payload: bytes, reply: Reply) -> None:
        raise AssertionError(f"nobody asks a client: {kind}")


class _Following:
    """Follows a ``Route`` until an answer or the time limit, as ``agent.hydfs.shell.gateway`` does."""

    def __init__(
        self,
        client: ClientHost,
        name: str,
        timeout_s: float,
        ask: Callable[[AskCoordinator, FileEntry, Reply], None],
        done: Reply,
    ) -> None:
        self._client = client
        self._name = name
        self._until = client.node.now + timeout_s
        self._ask = ask
        self._done = done
        self._route = Route(client.names)
        self._met_full_disk = False

    def start(self) -> None:
        known = self._client.entries.get(self._name)
        self._go(self._route.found(known) if known is not None else ReadFile(), known)

    def _go(self, step: Step, entry: FileEntry | None) -> None:
        if self._client.node.now >= self._until:
            self._done("DEADLINE_EXCEEDED", {}, b"")
            return
        match step:
            case ReadFile(pause_s=pause_s):
                self._client.node.after(pause_s, lambda: self._client.read(self._name, self._read))
            case AskCoordinator():
                assert entry is not None
                self._ask(step, entry, lambda c, f, p: self._answered(step, entry, c, f, p))
            case AskSeal(node=node, number=number):
                assert entry is not None
                body = {"name": self._name, "file_id": entry.file_id, "number": number}
                self._client.call(
                    node, "seal", body, b"", 4 * ACK_TIMEOUT_S, lambda c, f, p: self._sealed(step, entry, c)
                )
            case Stop(code=code):
                self._done(code, {}, b"")

    def _read(self, entry: FileEntry | None, error: RainStormError | None) -> None:
        if error is not None and not isinstance(error, NotFound):
            self._go(ReadFile(0.05), None)
        elif entry is None:
            self._done("NOT_FOUND", {}, b"")
        else:
            self._client.entries[self._name] = entry
            self._go(self._route.found(entry), entry)

    def _answered(
        self, step: AskCoordinator, entry: FileEntry, code: str, fields: Fields, payload: bytes
    ) -> None:
        if not code:
            if step.number is None:
                self._client.entries.pop(self._name, None)
            if self._met_full_disk:
                self._client.node.world.hit(WENT_ON)
            self._done("", fields, payload)
            return
        self._met_full_disk |= fields.get("cause") == "DISK_FULL"
        cause, failed = str(fields.get("cause", "")), list(fields.get("failed", ()))
        self._go(self._route.failed(step, entry, code, cause, failed), entry)

    def _sealed(self, step: AskSeal, entry: FileEntry, code: str) -> None:
        if code:
            self._go(self._route.failed(step, entry, code, "", ()), entry)
        else:
            self._go(self._route.sealed(), entry)
