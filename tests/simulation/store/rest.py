"""The checks of the stores after all faults have ended: history, copies, and nothing left behind."""

from __future__ import annotations

import io
import random
from functools import partial
from typing import TYPE_CHECKING

from agent.common.errors import NotFound, RainStormError
from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.messages.file import FileStat
from agent.hydfs.service import Service
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import DATA_FOLDER, OPERATOR
from tests.simulation.store.clients import LOG, NAMES
from tests.simulation.store.history import Seen, check_files, check_log

if TYPE_CHECKING:
    from tests.simulation.store.world import StoreRun

# Voters that lost their memory wait 20 s before they learn; after that every block is copied.
REPAIRED_S = 150.0
# The first pass (every ``PASS_INTERVAL_S``) after ``IDLE_S`` aborts puts and blocks whose sender is gone.
ABANDONED_S = 26.0
TRIES = 3
REPLICAS = 3
# The errors that stop an agent, which is then restarted, when its disk refuses a call.
DISK_ERRORS = ("DiskFull(", "DiskFailed(", "Corrupt(", "OSError(", "PortInUse(")


def check(run: StoreRun) -> list[str]:
    """Returns the problems, the most telling ones first."""
    cluster = run.cluster
    found = run.copies.problems or _crashes(run)
    if found:
        return found
    operator = Operator(run)
    process = cluster.client("operator")
    found = cluster.call(process, operator.look)
    if found:
        return found
    found = cluster.findings()
    found += [line for name, service in run.services().items() for line in left_over(name, service)]
    for number, client in enumerate(run.clients):
        cluster.call(client.process, partial(client.check_connections, of_agents=number == 0))
        cluster.call(client.process, client.close)
    run.authority.is_over = True
    return found or _crashes(run) or cluster.shut_down()


def _crashes(run: StoreRun) -> list[str]:
    """Returns the agents that ended by themselves without a fault of a disk that explains it."""
    return [
        f"{agent} crashed: {problem}"
        for agent, problem in run.cluster.crashes
        if agent.split("/")[0] not in run.faults.disks_hurt or not problem.startswith(DISK_ERRORS)
    ]


def left_over(name: str, service: Service) -> list[str]:
    """Returns the work that a store agent at rest still has."""
    replicas, puts = service._replicas, service._puts
    assert replicas is not None
    assert puts is not None
    held = {
        "puts": len(puts._puts),
        "slots of puts": 3 - puts.free_slots,
        "incoming blocks": replicas.transfers._taken,
        "requests that wait for the core": len(replicas._waiters),
        "locks of files": len(replicas._opening),
        "requests in progress": service._server.in_progress + service._task_server.in_progress,
        "events of the core": len(replicas.engine._events) if replicas.engine is not None else 0,
        "seals that wait": replicas._seals.waiting,
        "calls that wait": sum(lane.waiting for lane in service._peers._lanes.values()),
        "asks that wait": service._registers._pool.waiting,
        "marks of a new disk": int(service._new_disk.pending),
        "voters that do not vote": int(service._voter is not None and not service._voter.votes),
    }
    return [f"{name} still has {count} {what}" for what, count in held.items() if count]


class Operator:
    """Looks at the stores from outside, in a separate process."""

    def __init__(self, run: StoreRun) -> None:
        self.run = run
        self._client: Client | None = None

    def look(self) -> list[str]:
        """Waits for the repair, then reads everything and compares."""
        self._client = Client(auth.client_context(OPERATOR))
        try:
            unhealthy = self._await_repair()
            if unhealthy:
                return unhealthy
            threads.sleep(ABANDONED_S)
            if self.run.hits["a block rotted"]:
                self._read_all_copies()
                unhealthy = self._await_repair()
            return unhealthy or self._compare()
        finally:
            self._client.close()

    def _hydfs(self, name: str) -> HydfsClient:
        assert self._client is not None
        node = self.run.cluster.nodes[name]
        return HydfsClient(self._client, Address(node.address, node.config.me.hydfs_port, name))

    def _await_repair(self) -> list[str]:
        deadline = threads.monotonic() + REPAIRED_S
        while True:
            unhealthy = [line for node in self.run.cluster.living() for line in self._health(node.name)]
            if not unhealthy or threads.monotonic() > deadline:
                return unhealthy
            threads.sleep(1.0)

    def _health(self, name: str) -> list[str]:
        try:
            found = self._hydfs(name).health()
        except RainStormError as error:
            return [f"{name} does not report its health: {error}"]
        if found.checked and not found.under_replicated and not found.waiting:
            return []
        return [f"H10: after {REPAIRED_S:g} s {name} still has to repair: {found}"]

    def _read_all_copies(self) -> None:
        """Reads every file through every agent, which checks its own copies first."""
        for node in self.run.cluster.living():
            hydfs = self._hydfs(node.name)
            for stat in hydfs.list():
                hydfs.read(stat.name, 0, 1 << 20, timeout_s=20.0)
        threads.sleep(1.0)  # repair hears of damaged copies

    def _compare(self) -> list[str]:
        history, living = self.run.history, [node.name for node in self.run.cluster.living()]
        hydfs = self._hydfs(random.Random(str(self.run.schedule.seed)).choice(living))
        final = bytes(hydfs.read(LOG, 0, 1 << 20, timeout_s=20.0))
        found = check_log(history, final)
        contents = {LOG: final}
        for name in NAMES:
            began, sink = threads.monotonic(), io.BytesIO()
            try:
                hydfs.get(name, sink)
                contents[name] = sink.getvalue()
            except NotFound:
                pass
            history.seen.append(Seen(name, contents.get(name), began, threads.monotonic()))
        found += check_files(history)
        stats = {name: hydfs.stat(name) for name in contents}
        for name, stat in stats.items():
            found += self._check_copies(stat, contents[name])
        return found or self._strange_blocks({stat.file_id for stat in stats.values()})

    def _check_copies(self, stat: FileStat, content: bytes) -> list[str]:
        """Compares the copies of every block with the bytes that were read."""
        found = []
        living = [node.name for node in self.run.cluster.living()]
        for block in stat.blocks:
            replicas = [name for name in block.replicas if name in living]
            if len(replicas) < min(REPLICAS, len(living)):
                found.append(f"H10: block {block.number} of {stat.name} has only the copies {replicas}")
            wanted = content[block.offset : block.offset + block.length]
            for name in replicas:
                path = f"{DATA_FOLDER}/hydfs/blocks/{stat.file_id}.{block.number}"
                disk = self.run.cluster.nodes[name].disk
                held = bytes(disk.file(path).data[: block.length]) if path in disk.paths() else None
                if held != wanted and block.length:
                    found.append(f"H1: block {block.number} of {stat.name} on {name} is {held!r}")
        return found

    def _strange_blocks(self, known: set[str]) -> list[str]:
        """H11: deleted files and aborted puts leave no blocks behind."""
        found = []
        for name, service in self.run.services().items():
            strange = [key for key in service._store.index if key[0] not in known]
            found += [
                f"H11: {name} keeps block {number} of the unknown file {key}" for key, number in strange
            ]
            paths = self.run.cluster.nodes[name].disk.paths(f"{DATA_FOLDER}/hydfs/blocks")
            found += [f"H11: {name} keeps {path}" for path in paths if path.endswith(".part")]
        return found
