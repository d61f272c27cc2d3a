"""Moments of the stores that chance alone meets too rarely; each is played with a few seeds.

A moment returns a run that has ended, with its checks made.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.core.events import BlockOpened
from agent.hydfs.messages.block import Seal
from agent.hydfs.messages.file import FileStat
from agent.hydfs.shell.replica import Replicas
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.disk import Fault
from tests.simulation.machine.host import Node
from tests.simulation.machine.process import Process
from tests.simulation.machine.schedule import Schedule
from tests.simulation.store.clients import LOG
from tests.simulation.store.view import SERVICE
from tests.simulation.store.world import StoreRun, small_sizes

ALWAYS = 1 << 30
APPENDED_S = 30.0
# Long enough to give up a silent coordinator and have its block sealed.
ATTEMPT_S = 4.0


class Moment(StoreRun):
    """A run whose faults and appends a moment makes itself."""

    def __init__(self, seed: int | str, size: int = 5) -> None:
        super().__init__(Schedule(seed, size), ack="all", with_clients=False)
        self._processes: dict[str, Process] = {}
        self.cluster.start()
        self.authority.begin(self.cluster)

    def append(self, writer: str, sequence: int, through: str, size: int = 20) -> None:
        """Begins to append a line, again until it is acknowledged."""
        line = f"{writer}:{sequence}:".encode().ljust(size - 1, b".") + b"\n"
        self.history.invoked[writer, sequence] = line
        self.history.invoked_at[line] = self.cluster.scheduler.now
        self.process(writer).start("append", self._append, line, writer, sequence, through)

    def _append(self, line: bytes, writer: str, sequence: int, through: str) -> None:
        client = Client(auth.client_context(OPERATOR))
        hydfs = HydfsClient(client, self.target(through))
        while True:
            try:
                found = hydfs.append(LOG, line, writer=writer, sequence=sequence, timeout_s=ATTEMPT_S)
            except Exception:
                threads.sleep(0.05)
                continue
            self.history.acked.append((threads.monotonic(), writer, sequence, found.offset))
            client.close()
            return

    def await_appends(self) -> None:
        """Waits until every line is acknowledged."""
        acked, invoked = self.history.acked, self.history.invoked
        self.cluster.wait_until(lambda: len(acked) == len(invoked), APPENDED_S)

    def ask(self, through: str, question: Callable[[HydfsClient], Any]) -> Any:
        """Asks an agent something."""

        def body() -> Any:
            client = Client(auth.client_context(OPERATOR))
            try:
                return question(HydfsClient(client, self.target(through)))
            finally:
                client.close()

        return self.cluster.call(self.process("c0"), body)

    def open_block(self, through: str) -> tuple[str, list[Node]]:
        """Returns the file id of the log and the replicas of its open block, the coordinator first."""
        stat: FileStat = self.ask(through, lambda hydfs: hydfs.stat(LOG))
        assert stat.blocks[-1].state == "open", stat
        return stat.file_id, [self.cluster.nodes[name] for name in stat.blocks[-1].replicas]

    def others(self, nodes: list[Node]) -> list[Node]:
        """Returns the nodes that are not among these."""
        return [node for node in self.cluster.nodes.values() if node not in nodes]

    def target(self, name: str) -> Address:
        """Returns where an agent listens."""
        node = self.cluster.nodes[name]
        return Address(node.address, node.config.me.hydfs_port, name)

    def process(self, name: str) -> Process:
        """Returns the process of a client."""
        if name not in self._processes:
            self._processes[name] = self.cluster.client(name)
        return self._processes[name]


@contextmanager
def _moment(seed: int | str, size: int = 5) -> Iterator[Moment]:
    with small_sizes():
        found = Moment(seed, size)
        with found.cluster:
            found.ask("vm1", lambda hydfs: hydfs.create(LOG))
            yield found
            found.faults.end()
            found.await_appends()
            found.finish()


def refused_promise(seed: int | str) -> None:
    """Has a replica whose journal has no room asked to seal a block while its coordinator cannot hear of it.

    The replica restarts, all hear each other again, and the coordinator goes on with the block. If the
    promise counted that was never written, the file table would have sealed the block by then.
    """
    with _moment(seed) as moment:
        cluster = moment.cluster
        for sequence in range(2):
            moment.append("c1", sequence, "vm1")
            moment.await_appends()
        file_id, replicas = moment.open_block("vm1")
        coordinator, replica, other = replicas
        cluster.wires.cut(replica.address, coordinator.address)
        cluster.wires.cut(replica.address, other.address)
        moment.faults.disks_hurt.add(replica.name)
        replica.disk.faults.append(Fault("*write", "*/journal*", error=errno.ENOSPC, times=ALWAYS))
        neighbour = cluster.client("neighbour", on=moment.others(replicas)[0].name)
        neighbour.start("seal", _seal, moment.target(replica.name), Seal(file_id, 0, LOG))
        cluster.scheduler.run_for(5.0)
        replica.kill(SERVICE)
        replica.disk.faults.clear()
        cluster.wires.heal()
        replica.start(SERVICE)
        moment.append("c1", 2, coordinator.name)
        moment.await_appends()


def _seal(target: Address, request: Seal) -> None:
    client = Client(auth.client_context(OPERATOR))
    try:
        client.ask(target, request, timeout_s=4.0)
    except Exception:
        return  # it cannot be sealed: that is what the moment is about
    finally:
        client.close()


def refused_record(seed: int | str) -> None:
    """Has the disk of a replica refuse one record, and sends another behind it."""
    with _moment(seed) as moment:
        for sequence in range(1, 5):
            for writer in ("c1", "c2"):  # both know the open block from here on
                moment.append(writer, 10 * sequence, "vm1")
                moment.await_appends()
            _, replicas = moment.open_block("vm1")
            moment.faults.disks_hurt.add(replicas[1].name)
            fault = Fault("pwrite", "*/blocks/*", error=errno.ENOSPC)
            replicas[1].disk.faults.append(fault)
            moment.append("c1", 10 * sequence + 1, "vm1", 60)
            moment.append("c2", 10 * sequence + 1, "vm1")
            moment.await_appends()
            replicas[1].disk.faults.clear()


def late_coordinator(seed: int | str) -> None:
    """Stops a node that has just opened a block, and has the others seal the block, empty, behind its back.

    When it goes on it has an append to do; the replicas that it writes to have dropped their copies.
    """
    stopped: list[Node] = []
    with _moment(seed) as moment:
        post = Replicas.post

        def post_and_stop(self: Replicas, event: Any) -> None:
            if isinstance(event, BlockOpened) and not stopped:
                stopped.append(moment.cluster.nodes[self.peers.me])
                stopped[0].pause()
            post(self, event)

        with mock.patch.object(Replicas, "post", post_and_stop):
            moment.append("c1", 0, "vm1")
            moment.cluster.wait_until(lambda: stopped, 10.0)
            through = next(name for name in moment.cluster.nodes if name not in ("vm1", stopped[0].name))
            moment.append("c2", 0, through)
            moment.cluster.wait_until(
                lambda: any(writer == "c2" for _, writer, _, _ in moment.history.acked), 20.0
            )
            stopped[0].resume()
            moment.await_appends()


def new_disk_speaks(seed: int | str) -> None:
    """Replaces the disk of one replica while another is silent, and the coordinator's machine is gone."""
    with _moment(seed) as moment:
        for sequence in range(3):
            moment.append("c1", sequence, "vm1")
            moment.await_appends()
        _, (coordinator, replaced, silent) = moment.open_block("vm1")
        silent.pause()
        coordinator.power_off("everything")
        replaced.power_off()
        replaced.replace_disk()
        replaced.start_all()
        through = moment.others([coordinator, replaced, silent])[0].name
        moment.append("c2", 0, through)
        moment.cluster.scheduler.run_for(12.0)
        silent.resume()


def lost_promise(seed: int | str) -> None:
    """Has a replica promise, lose its power before any seal, and hear of the old coordinator again."""
    with _moment(seed) as moment:
        cluster = moment.cluster
        for sequence in range(2):
            moment.append("c1", sequence, "vm1")
            moment.await_appends()
        _, replicas = moment.open_block("vm1")
        coordinator, sealing, other = replicas
        for far in (coordinator, other):
            cluster.wires.cut(sealing.address, far.address)
        through = moment.others(replicas)[0]
        for far in (coordinator, other):
            cluster.wires.cut(through.address, far.address)
        moment.append("c2", 0, through.name)
        cluster.scheduler.run_for(moment.cluster.random.uniform(0.2, 4.0))
        sealing.power_off()
        cluster.wires.heal()
        sealing.start_all()
        moment.append("c1", 2, coordinator.name)


MOMENTS: dict[str, Callable[[int | str], None]] = {
    moment.__name__: moment
    for moment in (refused_promise, refused_record, late_coordinator, new_disk_speaks, lost_promise)
}
