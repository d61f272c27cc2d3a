"""Mutants of the store's rules: blocks, coordinators, replicas, the file table, repair."""

from __future__ import annotations

from tests.gates.mutant import Mutant

BLOCK = "agent/hydfs/core/block.py"
COORDINATOR = "agent/hydfs/core/coordinator.py"
TABLE = "agent/hydfs/core/filetable.py"
REPLICA = "agent/hydfs/core/replica.py"
TAKEOVER = "agent/hydfs/core/takeover.py"
REPAIR = "agent/hydfs/core/repair.py"
RING = "agent/hydfs/core/ring.py"

OF_BLOCK = ("tests/unit/hydfs/core/test_block.py",)
OF_COORDINATOR = ("tests/unit/hydfs/core/test_coordinator.py",)
OF_TABLE = ("tests/unit/hydfs/core/test_filetable.py",)
OF_REPLICA = ("tests/unit/hydfs/core/test_replica.py",)
OF_TAKEOVER = ("tests/unit/hydfs/core/test_takeover.py",)
OF_REPAIR = ("tests/unit/hydfs/core/test_repair.py",)
OF_RING = ("tests/unit/hydfs/core/test_ring.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a late promise does not unseal a block",
        BLOCK,
        "            if meta.state == OPEN:\n",
        "            if True:\n",
        OF_BLOCK,
    ),
    Mutant(
        "nothing is written behind a record that the disk refused",
        BLOCK,
        "return not (isinstance(entry, RecordEntry) and entry.key in self._keys)",
        "return True",
        OF_BLOCK,
    ),
    Mutant(
        "a file id does not lead out of the folder of the blocks",
        BLOCK,
        r'pattern=r"^[0-9A-Za-z_-]{1,64}\Z"',
        r'pattern=r"^.{1,64}\Z"',
        OF_BLOCK,
    ),
    Mutant(
        "a sequence that a writer's record in flight has passed is refused",
        COORDINATOR,
        "if event.sequence > newest:",
        "if True:",
        OF_COORDINATOR,
    ),
    Mutant(
        "a pair of writer and sequence is appended once",
        COORDINATOR,
        "if mark is None or event.sequence > mark[0]:",
        "if True:",
        OF_COORDINATOR,
    ),
    Mutant(
        "a client is answered once enough copies are durable",
        COORDINATOR,
        "elif len(flight.acked) >= self._needed:",
        "elif flight.acked:",
        OF_COORDINATOR,
    ),
    Mutant(
        "a replica confirms only the records that it has",
        COORDINATOR,
        "if flight.record is not None and flight.record.end <= event.end:",
        "if flight.record is not None:",
        OF_COORDINATOR,
    ),
    Mutant(
        "a seal names only the replicas that hold all committed bytes",
        COORDINATOR,
        "holders = tuple(node for node, held in self._held.items() if held >= self.committed)",
        "holders = tuple(self._held)",
        OF_COORDINATOR,
    ),
    Mutant(
        "a condition on the offset is checked",
        COORDINATOR,
        "if event.if_offset is not None and event.if_offset != end_of_file:",
        "if False:",
        OF_COORDINATOR,
    ),
    Mutant(
        "a replica that does not answer in time has the block sealed",
        COORDINATOR,
        "if deadline is None or now < deadline:",
        "if True:",
        OF_COORDINATOR,
    ),
    Mutant(
        "records in flight are bounded",
        COORDINATOR,
        "full = len(self._flights) >= WINDOW_RECORDS",
        "full = False",
        OF_COORDINATOR,
    ),
    Mutant(
        "appends that wait are bounded",
        COORDINATOR,
        "if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(event.data) > WAITING_BYTES_MAX:",
        "if False:",
        OF_COORDINATOR,
    ),
    Mutant(
        "the replicas that promise meet every set that can acknowledge",
        TABLE,
        "return replicas - needed_acks(ack, replicas) + 1",
        "return replicas - needed_acks(ack, replicas)",
        OF_TABLE,
    ),
    Mutant(
        "a quorum is a majority of the replicas",
        TABLE,
        'return replicas if ack == "all" else replicas // 2 + 1',
        'return replicas if ack == "all" else max(1, replicas // 2)',
        OF_TABLE,
    ),
    Mutant(
        "a block that was sealed by another node stays as it is",
        TABLE,
        "if block is None or block.number != number:",
        "if block is None:",
        OF_TABLE,
    ),
    Mutant(
        "a file that still takes appends is not deleted",
        TABLE,
        "        if entry.open_block is not None:\n            raise Conflict",
        "        if False:\n            raise Conflict",
        OF_TABLE,
    ),
    Mutant(
        "only an abandoned reservation is replaced",
        TABLE,
        "entry.state == CREATING and entry.file_id == instead_of:",
        "entry.state == CREATING:",
        OF_TABLE,
    ),
    Mutant(
        "a put that was aborted does not become visible",
        TABLE,
        "if entry is None or entry.file_id != file_id or entry.state == DELETED:\n            raise Conflict",
        "if entry is None or entry.file_id != file_id:\n            raise Conflict",
        OF_TABLE,
    ),
    Mutant(
        "a block keeps one holder at least",
        TABLE,
        "        if not holders:\n",
        "        if False:\n",
        OF_TABLE,
    ),
    Mutant(
        "an entry of the file table that contradicts itself is refused",
        TABLE,
        "    if problem:\n",
        "    if False:\n",
        OF_TABLE,
    ),
    Mutant(
        "a copy that promised takes no more records",
        REPLICA,
        "        if copy.state != OPEN:\n            return AnswerWrite",
        "        if False:\n            return AnswerWrite",
        OF_REPLICA,
    ),
    Mutant(
        "one session writes a block",
        REPLICA,
        "if copy.session != event.session:",
        "if False:",
        OF_REPLICA,
    ),
    Mutant(
        "a record continues the checksum of the copy",
        REPLICA,
        "if chain(event.data, copy.received_crc) != record.crc:",
        "if False:",
        OF_REPLICA,
    ),
    Mutant(
        "a sealed block takes no records",
        REPLICA,
        "        if event.key in self._sealed:\n            return [AnswerWrite",
        "        if False:\n            return [AnswerWrite",
        OF_REPLICA,
    ),
    Mutant(
        "a replica that dropped a block rejects its records",
        REPLICA,
        "if event.key in self._gone:",
        "if False:",
        OF_REPLICA,
    ),
    Mutant(
        "a promise is durable before it is answered",
        REPLICA,
        "if not copy.durable_promise or copy.durable < copy.received:",
        "if copy.durable < copy.received:",
        OF_REPLICA,
    ),
    Mutant(
        "a promise tells of every record that was taken",
        REPLICA,
        "if not copy.durable_promise or copy.durable < copy.received:",
        "if not copy.durable_promise:",
        OF_REPLICA,
    ),
    Mutant(
        "a record is durable before it is answered",
        REPLICA,
        "            if record.end <= copy.durable:\n",
        "            if True:\n",
        OF_REPLICA,
    ),
    Mutant(
        "a copy that lost a record takes none behind it",
        REPLICA,
        "copy.broken = event.code",
        "pass",
        OF_REPLICA,
    ),
    Mutant(
        "records that arrive early are bounded",
        REPLICA,
        "if len(copy.held) >= HELD_MAX:",
        "if False:",
        OF_REPLICA,
    ),
    Mutant(
        "a block is sealed only with enough promises",
        TAKEOVER,
        "if len(sound) < self._needed:",
        "if not sound:",
        OF_TAKEOVER,
    ),
    Mutant(
        "the longest promised copy is the block",
        TAKEOVER,
        "best = max(promises, key=lambda promise: promise.length)",
        "best = min(promises, key=lambda promise: promise.length)",
        OF_TAKEOVER,
    ),
    Mutant(
        "a copy that may have lost its tail counts only when all answer",
        TAKEOVER,
        "if everybody or not promise.doubtful",
        "if True",
        OF_TAKEOVER,
    ),
    Mutant(
        "a takeover names only the holders of the longest copy",
        TAKEOVER,
        "            if (promise.length, promise.crc) == (best.length, best.crc)\n",
        "",
        OF_TAKEOVER,
    ),
    Mutant(
        "the file table forgets a lost holder only when enough are left",
        REPAIR,
        "dead if enough else ()",
        "dead",
        OF_REPAIR,
    ),
    Mutant(
        "a copy is dropped only when enough other nodes hold the block",
        REPAIR,
        "return [Drop(block.number)] if len(alive) >= wanted else [Announce(block)]",
        "return [Drop(block.number)]",
        OF_REPAIR,
    ),
    Mutant(
        "a copy that differs from the file table is not announced",
        REPAIR,
        "if meta.state != SEALED or (meta.length, meta.crc) != (block.length, block.crc):",
        "if meta.state != SEALED:",
        OF_REPAIR,
    ),
    Mutant(
        "no block goes to a store that is known to be down",
        RING,
        "if node not in gone]",
        "]",
        OF_RING,
    ),
)
