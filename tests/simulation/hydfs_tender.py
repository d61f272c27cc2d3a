"""What a simulated store agent does for its copies again and again: ``repair``, with the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.hydfs.core import filetable, repair
from agent.hydfs.core.block import SEALED, DroppedEntry, chain
from agent.hydfs.core.events import BlockDropped
from agent.hydfs.core.filetable import FileEntry
from tests.simulation.hydfs_disk import nothing
from tests.simulation.hydfs_rpc import CALL_TIMEOUT_S, REPLICAS, TEND_INTERVAL_S, Fields

if TYPE_CHECKING:
    from tests.simulation.hydfs_host import StoreHost


class Tender:
    """Looks after the copies of one node."""

    def __init__(self, host: StoreHost) -> None:
        self.host = host
        host.node.after(host.node.random("tend").uniform(0.5, 1.0) * TEND_INTERVAL_S, self.tend)

    def tend(self) -> None:
        """Looks after every file of which something is here, and does so again."""
        self.host.node.after(TEND_INTERVAL_S, self.tend)
        for name in sorted({meta.name for meta in self.host.index.values()}):
            self.host.read(name, lambda entry, error, name=name: self._tend_file(name, entry))  # type: ignore[misc]

    def _tend_file(self, name: str, entry: FileEntry | None) -> None:
        if entry is None:
            return
        me = self.host.node.name
        metas = [meta for meta in self.host.index.values() if meta.name == name]
        mine = [b.number for b in entry.blocks if self.host.core.coordinates((entry.file_id, b.number))]
        for action in repair.local_actions(entry, metas, self.host.names, me, REPLICAS, mine):
            match action:
                case repair.Drop(number=number):
                    self.host.post(BlockDropped((entry.file_id, number)))
                    self.host.disk.persist(DroppedEntry((entry.file_id, number)))
                case repair.Certify(block=block):
                    self.host.sealing.certify((entry.file_id, block.number), name, block.length, block.crc)
                case repair.Announce(block=block):
                    change = filetable.set_replicas(name, entry.file_id, block.number, add=[me])
                    self.host.change(name, change, lambda entry, error: None)
                case repair.TakeOver(block=block):
                    self.host.sealing.take_over(name, entry, block.number, lambda code: None)
                case repair.Pull(block=block):
                    self._pull(name, entry.file_id, block)
        for push in repair.pushes(entry, self.host.names, me, REPLICAS):
            self._push(name, entry, push)

    def _pull(self, name: str, file_id: str, block: filetable.BlockEntry) -> None:
        key = (file_id, block.number)

        def fetched(code: str, found: Fields, payload: bytes) -> None:
            missing = key not in self.host.index and not self.host.disk.is_pending(key)
            if not code and missing and chain(payload, 0) == block.crc:
                self.host.adopt(key, name, payload, block.crc, nothing)

        fields = {"key": list(key), "name": name, "length": block.length}
        for node in block.replicas:
            if node != self.host.node.name:
                self.host.call(node, "read", fields, b"", CALL_TIMEOUT_S, fetched)

    def _push(self, name: str, entry: FileEntry, push: repair.Push) -> None:
        key = (entry.file_id, push.block.number)
        meta = self.host.index.get(key)
        if meta is None or meta.state != SEALED:
            return
        fields = {"key": list(key), "name": name, "crc": push.block.crc}
        for target in push.targets:

            def stored(code: str, found: Fields, payload: bytes, target: str = target) -> None:
                if not code:
                    change = filetable.set_replicas(name, key[0], key[1], add=[target])
                    self.host.change(name, change, lambda entry, error: None)

            self.host.call(target, "store", fields, bytes(self.host.data[key]), CALL_TIMEOUT_S, stored)
