"""Repair of one store among fakes, for its tests."""

from __future__ import annotations

from typing import Any

from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockKey, BlockMeta, DroppedEntry, SealedEntry, chain
from agent.hydfs.core.events import BlockDropped
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.messages.file import Health, StoreHealth
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.repair import Repair
from agent.hydfs.shell.store import Store
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters, call
from tests.unit.hydfs.stores import SettableView

NODES = ["n1", "n2", "n3"]
DATA = b"abcdef"
CRC = chain(DATA, 0)
KEY: BlockKey = ("id1", 0)


class Setting:
    """Repair of n1 among fakes; the test runs its thread's steps. It stands in for replicas and sealer."""

    def __init__(self, store: Store, *, new_disk: bool = False) -> None:
        self.store = store
        self.core = self.sealer = self
        self.peers = FakePeers()
        self.registers = FakeRegisters()
        self.views = SettableView(NODES)
        self.disk = NewDisk(store.root)
        self.disk.pending = new_disk
        self.posted: list[Any] = []
        self.coordinated: set[BlockKey] = set()
        self.taken_over: list[tuple[str, int]] = []
        self.tidied = 0
        self.votes = True
        self.puts: set[str] = set()
        surroundings: tuple[Any, ...] = (
            self,
            store,
            self.peers,
            self.registers,
            self.views,
            self.disk,
        )
        self.repair = Repair(
            *surroundings,
            replicas=3,
            put_is_alive=self.puts.__contains__,
            votes=lambda: self.votes,
            tidy=self.tidy,
        )

    def tidy(self) -> None:
        self.tidied += 1

    def coordinates(self, key: BlockKey) -> bool:
        return key in self.coordinated

    def post(self, event: Any) -> None:
        self.posted.append(event)

    def drop(self, key: BlockKey) -> None:
        self.post(BlockDropped(key))
        self.store.write(DroppedEntry(key))

    def certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        self.store.write(SealedEntry(key, name, length, crc))

    def take_over(self, name: str, entry: FileEntry, block: filetable.BlockEntry) -> None:
        self.taken_over.append((name, block.number))
        change = filetable.seal(name, entry.file_id, block.number, 0, 0, [], {})
        self.registers.values[name] = change(self.registers.values[name])

    def slice(self, name: str, key: BlockKey, offset: int, length: int) -> Any:
        return self.store.slice(key, offset, length)

    def keep(self, key: BlockKey = KEY, name: str = "f", data: bytes = DATA) -> None:
        part = self.store.receive(key)
        part.write(data)
        part.finish(name, len(data), chain(data, 0))

    def file(self, name: str = "f", replicas: str = "123", *, is_open: bool = False) -> None:
        nodes = [f"n{digit}" for digit in replicas]
        value = filetable.create(name, "id1", "all")(None)
        value = filetable.open_next(name, "id1", nodes, 1, "s")(value)
        if not is_open:
            value = filetable.seal(name, "id1", 0, len(DATA), CRC, nodes, {})(value)
        self.registers.values[name] = value

    def entry(self, name: str = "f") -> FileEntry:
        found = filetable.from_value(self.registers.values[name])
        assert found is not None
        return found

    def look(self, *names: str) -> None:
        """Checks names, as the thread would do."""
        local: dict[str, list[BlockMeta]] = self.repair._local()
        self.repair._repair_all({name: local.get(name, []) for name in names or ("f",)})

    def compare(self) -> None:
        """Compares everything, as the thread would do."""
        self.repair._compare_all()
        self.repair._settle_new_disk()

    def health(self) -> StoreHealth:
        (endpoint,) = self.repair.endpoints()
        found = endpoint.handle(Health(), call())
        assert isinstance(found, StoreHealth)
        return found
