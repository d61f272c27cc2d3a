"""Making blocks final on a simulated store agent, as ``agent.hydfs.shell.takeover`` does on a real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agent.common.errors import RainStormError
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED, BlockKey, DroppedEntry, SealedEntry, chain
from agent.hydfs.core.events import BlockDropped, BlockSealed, SealBlock, SealFailed
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.takeover import AskPromise, Fail, PromiseFailed, PromiseReceived, Takeover
from tests.simulation.hydfs_rpc import ACK_TIMEOUT_S, CALL_TIMEOUT_S, Fields, ignore

if TYPE_CHECKING:
    from tests.simulation.hydfs_host import StoreHost


class Sealing:
    """Seals blocks for the coordinators of one node and for those of others that are gone."""

    def __init__(self, host: StoreHost) -> None:
        self.host = host

    def seal_in_table(self, effect: SealBlock, done: Callable[[str], None]) -> None:
        """Makes a block final in the file table and tells its replicas."""
        host = self.host
        file_id, number = effect.key

        def settled(entry: FileEntry | None, error: RainStormError | None) -> None:
            if entry is None or error is not None:
                code = error.code if error is not None else "NOT_FOUND"
                host.post(SealFailed(effect.key, code, "the file table could not be changed"))
                done(code)
                return
            block = entry.block(number)
            length, crc = (block.length, block.crc) if block is not None else (0, 0)
            self.certify(effect.key, effect.name, length, crc)
            told = block.replicas if block is not None else ()
            for node in dict.fromkeys((*told, *effect.holders, *effect.failed)):
                body = {"key": list(effect.key), "name": effect.name, "length": length, "crc": crc}
                if node != host.node.name:
                    host.call(node, "certify", body, b"", CALL_TIMEOUT_S, ignore)
            done("")

        change = filetable.seal(
            effect.name, file_id, number, effect.length, effect.crc, effect.holders, effect.writers
        )
        host.change(effect.name, change, settled)

    def certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        """Makes this node's copy agree with the file table: final, shortened, or dropped.

        What the disk refuses is tried again by the tender: the core knows already what the table says.
        """
        host = self.host
        if host.disk.is_pending(key):  # the real one holds a lock while a copy's fate is being written
            host.node.after(0.001, lambda: self.certify(key, name, length, crc))
            return
        meta = host.index.get(key)
        if meta is not None and meta.state == SEALED and (meta.length, meta.crc) == (length, crc):
            host.post(BlockSealed(key, name, length, crc))
        elif (
            meta is not None and 0 < length <= meta.length and chain(bytes(host.data[key][:length]), 0) == crc
        ):
            host.post(BlockSealed(key, name, length, crc))
            host.disk.persist(SealedEntry(key, name, length, crc))
        else:
            host.post(BlockDropped(key))
            if meta is not None:
                host.disk.persist(DroppedEntry(key))

    def take_over(self, name: str, entry: FileEntry, number: int, done: Callable[[str], None]) -> None:
        """Seals a block that somebody else coordinates or coordinated."""
        host = self.host
        block = entry.open_block
        assert block is not None
        key = (entry.file_id, number)
        takeover = Takeover(
            key, name, block.replicas, entry.ack, entry.sealed_length, timeout_s=ACK_TIMEOUT_S
        )

        def carry_out(effects: Sequence[Any]) -> None:
            for effect in effects:
                match effect:
                    case AskPromise(peer=peer):
                        ask(peer)
                    case SealBlock():
                        self.seal_in_table(effect, done)
                    case Fail(code=code):
                        done(code)

        def ask(peer: str) -> None:
            def answered(code: str, fields: Fields, payload: bytes) -> None:
                event: PromiseReceived | PromiseFailed = PromiseFailed(peer)
                if not code:
                    writers = {w: (m[0], m[1], m[2]) for w, m in fields["writers"].items()}
                    event = PromiseReceived(
                        peer, fields["length"], fields["crc"], writers, fields["doubtful"]
                    )
                carry_out(takeover.handle(host.node.now, event))

            body = {"key": list(key), "name": name}
            host.call(peer, "promise", body, b"", ACK_TIMEOUT_S, answered)

        carry_out(takeover.start(host.node.now))
        host.node.after(ACK_TIMEOUT_S * 1.01, lambda: carry_out(takeover.handle(host.node.now, None)))
