"""Mutants of the store's shells: the disk, the requests of other nodes, puts."""

from __future__ import annotations

from tests.gates.mutant import Mutant

STORE = "agent/hydfs/shell/store.py"
FILES = "agent/hydfs/shell/blockfile.py"
NEW_DISK = "agent/hydfs/shell/newdisk.py"
SEALER = "agent/hydfs/shell/takeover.py"
REPLICA_SHELL = "agent/hydfs/shell/replica.py"
PUT = "agent/hydfs/shell/put.py"
TRANSFERS = "agent/hydfs/shell/transfers/incoming.py"
ENGINE = "agent/hydfs/shell/node.py"
WAITERS = "agent/hydfs/shell/waiting/waiter.py"
PEERS = "agent/hydfs/shell/peers.py"

OF_STORE = ("tests/unit/hydfs/shell/test_store.py",)
OF_JOURNAL = ("tests/unit/hydfs/shell/test_journal.py",)
OF_FILES = ("tests/unit/hydfs/shell/test_blockfile.py",)
OF_NEW_DISK = ("tests/unit/hydfs/shell/test_newdisk.py",)
OF_SEALER = ("tests/unit/hydfs/shell/test_takeover.py",)
OF_REPLICA_SHELL = ("tests/unit/hydfs/shell/test_replica.py",)
OF_PUT = ("tests/unit/hydfs/shell/test_put.py",)
OF_TRANSFERS = ("tests/unit/hydfs/shell/transfers/test_incoming.py",)
OF_ENGINE = ("tests/unit/hydfs/shell/test_node.py",)
OF_WAITERS = ("tests/unit/hydfs/shell/waiting/test_waiter.py",)
OF_PEERS = ("tests/unit/hydfs/shell/test_peers.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a large payload is synced before its journal entry is written",
        STORE,
        "        if flush:\n            self._files.sync(flush)\n",
        "",
        OF_STORE,
    ),
    Mutant(
        "the payloads of a batch are synced one by one",
        FILES,
        "        for key in keys:\n            disk.fdatasync(self._descriptor(key))\n",
        "        for key in keys:\n",
        OF_FILES,
    ),
    Mutant(
        "the name of a block's file is durable with its first payload",
        FILES,
        "        if self._unsynced_names:\n            self._sync_names()\n",
        "",
        OF_FILES,
    ),
    Mutant(
        "the name that an earlier process gave a block's file is durable with the next payload",
        FILES,
        "made some that exist.\n        self._unsynced_names = True\n",
        "made some that exist.\n        self._unsynced_names = False\n",
        OF_FILES,
    ),
    Mutant(
        "payloads are synced before the journal that has them is dropped",
        FILES,
        "            if key in known and disk.exists(self.path(key)):\n"
        "                disk.fdatasync(self._descriptor(key))\n",
        "            pass\n",
        OF_FILES,
    ),
    Mutant(
        "a received block is synced before it is adopted",
        FILES,
        "            disk.fdatasync(self._file)\n",
        "            pass\n",
        OF_FILES,
    ),
    Mutant(
        "a block that arrived damaged is refused",
        FILES,
        "if (self.length, self.crc) != (length, crc):",
        "if False:",
        OF_FILES,
    ),
    Mutant(
        "the reserve of the disk is kept",
        FILES,
        "if self._store.free_bytes() < len(data):",
        "if False:",
        OF_FILES,
    ),
    Mutant(
        "a sealed block is checked before it is read",
        STORE,
        "if self.crc_of(meta.key, meta.length) != meta.crc:",
        "if False:",
        OF_STORE,
    ),
    Mutant(
        "after a torn tail open copies are doubtful",
        STORE,
        "self.index[key] = replace(meta, state=state, doubtful=True)",
        "self.index[key] = replace(meta, state=state)",
        OF_JOURNAL,
    ),
    Mutant(
        "a store whose disk fails ends its agent",
        STORE,
        "        self._on_crash(error)\n",
        "",
        OF_STORE,
    ),
    Mutant(
        "entries that the journal refused are not applied",
        STORE,
        "        for job in good:\n            if not job.code:\n",
        "        for job in good:\n            if True:\n",
        OF_STORE,
    ),
    Mutant(
        "an empty disk is marked as new before a store is made on it",
        NEW_DISK,
        'if not disk.exists(root / "journal"):',
        "if False:",
        OF_NEW_DISK,
    ),
    Mutant(
        "what a new disk promises about blocks that it does not know is doubtful",
        REPLICA_SHELL,
        "doubtful = self._new_disk.pending and key not in self.store.index",
        "doubtful = False",
        OF_REPLICA_SHELL,
    ),
    Mutant(
        "only the nodes of the cluster may write to a replica",
        REPLICA_SHELL,
        "if call.peer not in self.peers.names:",
        "if False:",
        OF_REPLICA_SHELL,
    ),
    Mutant(
        "copies of a file that lives are not dropped",
        REPLICA_SHELL,
        "if entry is not None and entry.file_id == request.file_id and entry.state != filetable.DELETED:",
        "if False:",
        OF_REPLICA_SHELL,
    ),
    Mutant(
        "clients are answered when a seal fails",
        REPLICA_SHELL,
        '            self.post(SealFailed(effect.key, "INTERNAL", f"sealing failed: {error!r}"))\n',
        "",
        OF_REPLICA_SHELL,
    ),
    Mutant(
        "a copy is certified only when its bytes match the file table",
        SEALER,
        "if good and self.store.crc_of(key, length) == crc:",
        "if good:",
        OF_SEALER,
    ),
    Mutant(
        "the slot of a block is given back once it is stored",
        PUT,
        "            return self._outgoing.place(block)\n        finally:\n            self._free_slot()",
        "            return self._outgoing.place(block)\n        finally:\n            pass",
        OF_PUT,
    ),
    Mutant(
        "a put that is aborted gives its slot back",
        PUT,
        "        if held:\n            self._free_slot()",
        "        if held:\n            pass",
        OF_PUT,
    ),
    Mutant(
        "blocks in memory are bounded",
        PUT,
        "lambda: put.ended or self._free > 0",
        "lambda: True",
        OF_PUT,
    ),
    Mutant(
        "puts in progress are bounded",
        PUT,
        "if len(self._puts) >= PUTS_MAX:",
        "if False:",
        OF_PUT,
    ),
    Mutant(
        "a transfer that ended gives its place back",
        TRANSFERS,
        "            self._taken -= 1\n        part.abandon()",
        "            pass\n        part.abandon()",
        OF_TRANSFERS,
    ),
    Mutant(
        "a piece continues its transfer exactly",
        TRANSFERS,
        "if piece.offset and part is not None and part.length == piece.offset:",
        "if piece.offset and part is not None:",
        OF_TRANSFERS,
    ),
    Mutant(
        "a core that crashes ends the agent",
        ENGINE,
        "            self._on_crash(error)\n",
        "",
        OF_ENGINE,
    ),
    Mutant(
        "requests do not wait for a core that crashed",
        ENGINE,
        "            self._stopping = True\n            self._on_stop()\n            self._on_crash(error)\n",
        "            self._stopping = True\n            self._on_crash(error)\n",
        OF_ENGINE,
    ),
    Mutant(
        "the core forgets a request whose time is over",
        WAITERS,
        "            post(CallerLeft(event.key, waiter))\n",
        "",
        OF_WAITERS,
    ),
    Mutant(
        "a request waits no longer than its deadline",
        WAITERS,
        "answer = waiter.get(deadline.remaining(clock.monotonic()))",
        "answer = waiter.get(30.0)",
        OF_WAITERS,
    ),
    Mutant(
        "a peer that cannot be told is reported as overloaded",
        PEERS,
        "        except (Overloaded, Unavailable):\n            return False",
        "        except (Overloaded, Unavailable):\n            return True",
        OF_PEERS,
    ),
)
