"""A world for the collector: a disk whose files rotate, a spool, HyDFS, and a process that dies.

The disk reuses inodes, and its files may change between a scan and a read. Records in the spool survive; the
spool may have no room. HyDFS counts an append once for each writer and sequence. At the end every line that
was written is in HyDFS once. Only one kind of line may be lost: one that was written after its file was
copied, and truncated away before a scan read it.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from dataclasses import dataclass, field

from agent.logs.core.collector import (
    SETTLE_S,
    ChunkRead,
    Collector,
    Effect,
    ReadChunk,
    Record,
    RecordStored,
    Scanned,
    StoreRecord,
    record_from_wire,
)
from agent.logs.core.position import SHORT_HEAD_BYTES, Key, Seen
from agent.logs.messages import HEAD_BYTES, CollectorState
from agent.logs.shell import sources

STEPS = 60
KEPT = 4

name_parts = functools.lru_cache(sources.name_parts)


class Crash(Exception):
    """The process dies."""


class Full(Exception):
    """The spool has no room; a later scan reads the lines again that were to be stored."""


@dataclass
class File:
    """A file of the model disk; even a packed one has its plain contents here."""

    inode: int
    data: bytearray = field(default_factory=bytearray)


class World:
    """Disk, spool, HyDFS, and the collector between them; ``schedule`` decides everything that happens."""

    def __init__(self, schedule: str, renames_only: bool) -> None:
        self.rng = random.Random(schedule)
        self.renames_only = renames_only
        self.now = 0.0
        self.files: dict[str, File] = {}
        self.free: list[int] = []
        self.inodes = 0
        self.device = 1
        self.written: dict[str, list[bytes]] = {"a.log": [], "b.log": []}
        # Lines of a file that will be truncated that are not in its copy and that no scan has read yet.
        self.unread: list[bytes] = []
        # Lines of this kind whose file was truncated: the only ones that may be lost.
        self.may_be_lost: dict[str, list[bytes]] = {"a.log": [], "b.log": []}
        # The names that the last scan saw, and the marks that show whether a file has changed since.
        self.looking = False
        self.names: dict[Key, str] = {}
        self.versions: dict[Key, int] = {}
        self.snapshot: CollectorState | None = None
        self.stored: list[Record] = []
        self.unsent: list[Record] = []
        self.hydfs: dict[tuple[str, int], bytearray] = {}
        self.marks: dict[tuple[str, int, int], int] = {}
        self.core = self.fresh_core()

    def fresh_core(self) -> Collector:
        return Collector(target_bytes_max=3000, record_bytes_max=200)

    # The writers and their rotation

    def new_file(self, data: bytes = b"") -> File:
        if self.free and self.rng.random() < 0.7:
            return File(self.free.pop(0), bytearray(data))
        self.inodes += 1
        return File(self.inodes, bytearray(data))

    def line(self, log: str) -> bytes:
        number = len(self.written[log])
        text = b"%s %06d " % (log.encode(), number) + b"x" * (
            20 + self.rng.randrange(40 if number % 7 else 250)
        )
        self.written[log].append(text)
        return text + b"\n"

    def write(self, log: str) -> None:
        if log not in self.files:
            self.files[log] = self.new_file()
        self.write_to(self.files[log], log)

    def write_to(self, file: File, log: str) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            text = self.line(log)
            cut = self.rng.randrange(len(text))
            file.data += text[:cut]
            if self.rng.random() < 0.3:
                self.scan()
            file.data += text[cut:]

    def shift(self, log: str) -> None:
        """Makes room for ``log.1``; drops the oldest once it is collected, as it would be in time."""
        names = sorted(self.rotated(log), key=name_parts)
        if len(names) >= KEPT:
            self.wait_for_scans()
            self.free.append(self.files.pop(names.pop()).inode)
        for name in reversed(names):
            _, age, packed = name_parts(name)
            self.move(name, f"{log}.{age + 1}{packed}")

    def rotated(self, log: str) -> list[str]:
        return [name for name in self.files if name_parts(name)[0] == log and name != log]

    def move(self, name: str, to: str) -> None:
        if self.rng.random() < 0.1:
            self.files[to] = self.files[name]
            self.scan()  # a rename by link and unlink shows the file twice
        file = self.files.pop(name)
        self.files.pop(to, None)
        if not self.renames_only and self.rng.random() < 0.1:
            self.scan()  # the listing of a folder may miss a file that is being renamed
        self.files[to] = file

    def rename(self, log: str) -> None:
        if log in self.files:
            self.shift(log)
            self.move(log, f"{log}.1")
            if self.rng.random() < 0.3:
                self.write_to(self.files[f"{log}.1"], log)  # the writer has not opened the new file yet
            if self.rng.random() < 0.5:
                self.files[log] = self.new_file()

    def copy_and_cut(self, log: str) -> None:
        if log not in self.files or not self.files[log].data:
            return
        self.shift(log)
        file = self.files[log]
        whole = bytes(file.data)
        copy = self.files[f"{log}.1"] = self.new_file(whole[: self.rng.randrange(len(whole))])
        self.scan()
        copy.data[:] = whole
        if self.rng.random() < 0.5:
            self.scan()
        if self.rng.random() < 0.2:
            count = len(self.written[log])
            self.write_to(file, log)
            self.unread = self.written[log][count:]
            self.scan()
            self.may_be_lost[log] += self.unread
        file.data.clear()

    def compress(self, log: str) -> None:
        names = [name for name in self.rotated(log) if not name.endswith(".gz")]
        if names:
            name = self.rng.choice(names)
            packed = self.new_file(bytes(self.files[name].data))
            self.files[f"{name}.gz"] = packed
            if self.rng.random() < 0.5:
                self.scan()
            self.free.append(self.files.pop(name).inode)

    # The collector

    def scan(self, safe: bool = False, changing: bool = False) -> None:
        """Scans once; unless ``safe`` the process may die at any step, and then restarts at once."""
        if self.looking:
            return
        self.looking = True
        try:
            self.look(0.0 if safe else 0.03, changing)
            if not self.core.unread_bytes():
                self.unread = []
        except Full:
            pass
        except Crash:
            self.restart()
        finally:
            self.looking = False

    def wait_for_scans(self) -> None:
        """Lets time pass until all that is on the disk is collected."""
        for _ in range(3):
            self.now += SETTLE_S
            self.scan(safe=True)

    def look(self, trouble_rate: float, changing: bool) -> None:
        seen = []
        self.names, (before, self.versions) = {}, (self.versions, {})
        for name in sorted(self.files, key=lambda each: (name_parts(each)[0], -name_parts(each)[1])):
            log, age, packed = name_parts(name)
            file = self.files[name]
            key = (self.device, file.inode)
            self.names[key], self.versions[key] = name, hash(bytes(file.data))
            unchanged = self.core.knows(key) and before.get(key) == self.versions[key]
            head = None if unchanged else bytes(file.data[:HEAD_BYTES])
            seen.append(Seen(log, age, *key, len(file.data), head, bool(packed)))
        waiting = self.core.handle(self.now, Scanned(tuple(seen), str(int(self.now // 40))))
        waiting.reverse()
        while waiting:
            if self.rng.random() < trouble_rate:
                raise Crash
            if changing and self.rng.random() < trouble_rate:
                self.change(self.rng.choice(("a.log", "b.log")))
            waiting += self.carry_out(waiting.pop(), trouble_rate)
            self.core.check_invariants()

    def carry_out(self, effect: Effect, trouble_rate: float) -> list[Effect]:
        match effect:
            case ReadChunk(key=key, number=number, offset=offset, length=length):
                file = self.files.get(self.names[key])
                if file is None or (self.device, file.inode) != key:
                    return []
                data, head = bytes(file.data[offset : offset + length]), bytes(file.data[:HEAD_BYTES])
                return self.core.handle(self.now, ChunkRead(key, number, offset, data, head)) if data else []
            case StoreRecord(record=record):
                if self.rng.random() < trouble_rate:
                    raise Full
                record = record_from_wire(record.to_wire())
                self.stored.append(record)
                self.unsent.append(record)
                if self.rng.random() < trouble_rate:
                    raise Crash
                effects = self.core.handle(self.now, RecordStored(record))
                if self.rng.random() < 0.1:
                    self.snapshot, self.stored = self.core.snapshot(), []
                return effects

    def restart(self) -> None:
        self.core = self.fresh_core()
        if self.rng.random() < 0.1:
            self.device += 1  # the machine was restarted, too
        if self.snapshot is not None:
            self.core.restore(self.snapshot)
        for record in self.stored:
            self.core.apply(record)

    def send(self) -> None:
        while self.unsent and self.rng.random() < 0.9:
            record = self.unsent[0]
            log, number = record.position.log, record.position.number
            mark = (log, record.target.number, number)
            if record.sequence > self.marks.get(mark, -1):
                self.marks[mark] = record.sequence
                self.hydfs.setdefault((log, record.target.number), bytearray()).extend(record.data)
            if self.rng.random() < 0.8:  # else the answer is lost
                self.unsent.pop(0)

    def step(self) -> None:
        self.now += self.rng.random() * 2
        log = self.rng.choice(("a.log", "a.log", "b.log"))
        self.rng.choice([self.change] * 2 + [lambda _: self.scan(changing=True)])(log)
        self.send()

    def change(self, log: str) -> None:
        """Writes or rotates."""
        rotations = [self.rename] if self.renames_only else [self.rename, self.copy_and_cut, self.compress]
        if self.looking and len(self.rotated(log)) >= KEPT:
            rotations = []  # the oldest is not dropped before it is collected
        self.rng.choice([self.write] * 5 + rotations)(log)

    # The result

    def run(self) -> None:
        """Carries out the schedule, and asserts the rules that must hold at the end."""
        for _ in range(STEPS):
            self.step()
        self.wait_for_scans()
        while self.unsent:
            self.send()
        for log, lines in self.written.items():
            found = self.collected(log)
            lost = [line for line in self.may_be_lost[log] if line not in found]
            # A lost line may have been read in part.
            parts = [each for each in found if each not in lines and any(x.startswith(each) for x in lost)]
            expected = [line for line in lines if line not in lost]
            assert not Counter(expected) - Counter(found), f"{log}: lines are missing"
            assert not Counter(found) - Counter(expected + parts), f"{log}: lines came twice, or mixed"
            assert len(parts) <= len(lost), f"{log}: parts of lines came twice"
            # Lines that a scan missed, or that a cut or packed file left, are found after newer ones.
            assert found == lines or not self.renames_only, f"{log}: lines are out of order"
        # A beginning that is too short tells no file from another: if a file with so little vanishes, and its
        # packed copy is read as a new file, these bytes count as lost although they were collected.
        short = 0 if self.renames_only else STEPS * (SHORT_HEAD_BYTES - 1)
        assert self.core.lost_bytes <= short or any(self.may_be_lost.values()), "bytes count as lost"

    def collected(self, log: str) -> list[bytes]:
        """Returns the lines in HyDFS."""
        parts = [bytes(data) for (name, _), data in sorted(self.hydfs.items()) if name == log]
        found = b"".join(parts).removesuffix(b"\n")
        return found.split(b"\n") if found else []
