"""Moments of the stores that chance alone meets too rarely; each is played with a few seeds.

A moment returns a run that has ended, with its checks made.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.core.events import BlockOpened
from agent.hydfs.core.ring import block_token, ring_of
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.block import Seal
from agent.hydfs.messages.file import FileStat
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.takeover import Sealer
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
SETTLED_S = 30.0
# Long enough to give up a silent coordinator and have its block sealed.
ATTEMPT_S = 4.0


class Moment(StoreRun):
    """A run whose faults and appends a moment makes itself."""

    def __init__(self, seed: int | str, ack: str, size: int) -> None:
        super().__init__(Schedule(seed, size), ack=ack, with_clients=False)
        self._processes: dict[str, Process] = {}
        self.cluster.start()
        self.authority.begin(self.cluster)
        # While disks are new, promises are doubtful.
        self.cluster.wait_until(self._all_settled, SETTLED_S)

    def _all_settled(self) -> bool:
        return not any(service._new_disk.pending for service in self.services().values())

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

    def isolate(self, node: Node) -> None:
        """Lets nothing through between a node and the others."""
        for other in self.others([node]):
            self.cluster.wires.cut(node.address, other.address)

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
def _moment(seed: int | str, ack: str = "all", size: int = 5) -> Iterator[Moment]:
    with small_sizes():
        found = Moment(seed, ack, size)
        with found.copies.watched(), found.cluster:
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


def failed_flush(seed: int | str) -> None:
    """Has a flush of a replica's journal fail, and cuts its power once its agent has begun anew and gone on.

    The kernel shows the agent what it never wrote, and does not fail the next flush.
    """
    with _moment(seed) as moment:
        cluster = moment.cluster
        for sequence in range(4):
            moment.append("c1", 2 * sequence, "vm1")
            moment.await_appends()
            _, (_, replica, _) = moment.open_block("vm1")
            moment.faults.disks_hurt.add(replica.name)
            flush = Fault("fdatasync", "*/journal/*", error=errno.EIO)
            replica.disk.faults.append(flush)
            moment.append("c1", 2 * sequence + 1, "vm1")
            moment.await_appends()
            cluster.wait_until(lambda flush=flush: not flush.times, APPENDED_S)  # type: ignore[misc]
            cluster.wait_until(lambda node=replica: node.agents[SERVICE].is_ready, 5.0)  # type: ignore[misc]
            moment.append("c2", sequence, "vm1")
            moment.await_appends()
            cluster.scheduler.run_for(1.0)
            replica.power_off("nothing")
            replica.start_all()
            cluster.wait_until(lambda node=replica: node.agents[SERVICE].is_ready, 5.0)  # type: ignore[misc]


def late_coordinator(seed: int | str) -> None:
    """Stops a node that has just opened a block, and has a replica seal the block, empty, behind its back.

    When it goes on it has an append to do; the replicas that it writes to have dropped their copies.
    """
    opened: list[BlockOpened] = []
    with _moment(seed) as moment:
        cluster, post = moment.cluster, Replicas.post

        def post_and_stop(self: Replicas, event: Any) -> None:
            if isinstance(event, BlockOpened) and not opened:
                opened.append(event)
                node = cluster.nodes[self.peers.me]
                moment.isolate(node)
                node.pause()
            post(self, event)

        file_id = moment.ask("vm1", lambda hydfs: hydfs.stat(LOG)).file_id
        first = ring_of(tuple(cluster.nodes)).walk(block_token(file_id, 0))[0]
        with mock.patch.object(Replicas, "post", post_and_stop):
            moment.append("c1", 0, first)
            cluster.wait_until(lambda: opened, 10.0)
            coordinator, replica, other = opened[0].replicas
            neighbour = cluster.client("neighbour", on=other)
            asking = neighbour.start("seal", _seal, moment.target(replica), Seal(file_id, 0, LOG))
            cluster.wait_until(lambda: not asking.is_alive(), 10.0)
            cluster.scheduler.run_for(cluster.random.uniform(0.0, 0.1))
            cluster.wires.heal()
            cluster.nodes[coordinator].resume()
            moment.await_appends()


def new_disk_speaks(seed: int | str) -> None:
    """Replaces the disk of the only replica that can be asked to seal a block.

    Of seven nodes five vote, so that in most seeds there is a majority without the three replicas.
    """
    with _moment(seed, size=7) as moment:
        cluster = moment.cluster
        for sequence in range(3):
            moment.append("c1", sequence, "vm1")
            moment.await_appends()
        _, (coordinator, replaced, hidden) = moment.open_block("vm1")
        cluster.wires.cut(replaced.address, hidden.address)
        coordinator.power_off("everything")
        replaced.power_off()
        moment.copies.bereft[replaced.name] = None
        replaced.replace_disk()
        replaced.start_all()
        cluster.wait_until(lambda: replaced.agents[SERVICE].is_ready, 5.0)
        through = moment.others([coordinator, replaced, hidden])[0].name
        moment.append("c2", 0, through)
        cluster.scheduler.run_for(6.0)


def lost_promise(seed: int | str) -> None:
    """Stops a node between the promises that it got and the seal; a replica that promised loses its power.

    The old coordinator writes to that replica again. A promise that was durable still holds.
    """
    stopped: list[Node] = []
    with _moment(seed, "quorum") as moment:
        cluster, seal_in_table = moment.cluster, Sealer.seal_in_table
        for sequence in range(2):
            moment.append("c1", sequence, "vm1")
            moment.await_appends()
        file_id, (coordinator, promising, sealing) = moment.open_block("vm1")

        def stop_and_seal(self: Sealer, effect: Any) -> Any:
            if self.peers.me == sealing.name and not stopped:
                stopped.append(sealing)
                sealing.pause()
            return seal_in_table(self, effect)

        cluster.wires.cut(sealing.address, coordinator.address)
        neighbour = cluster.client("neighbour", on=promising.name)
        with mock.patch.object(Sealer, "seal_in_table", stop_and_seal):
            neighbour.start("seal", _seal, moment.target(sealing.name), Seal(file_id, 0, LOG))
            cluster.wait_until(lambda: stopped, 10.0)
            promising.power_off("nothing")
            promising.start_all()
            cluster.wait_until(lambda: promising.agents[SERVICE].is_ready, 5.0)
            moment.append("c1", 2, coordinator.name)
            cluster.scheduler.run_for(cluster.random.uniform(0.05, 0.4))
            sealing.resume()
            cluster.wires.heal()
            moment.await_appends()


def lost_after_the_answer(seed: int | str) -> None:
    """Loses two nodes for good after an answer that one replica of the block did not take part in."""
    with _moment(seed) as moment:
        cluster = moment.cluster
        moment.append("c1", 0, "vm1")
        moment.await_appends()
        _, (coordinator, second, third) = moment.open_block("vm1")
        cluster.wires.cut(coordinator.address, third.address)
        moment.append("c1", 1, coordinator.name)
        moment.await_appends()
        cluster.lose(coordinator)
        cluster.lose(second)


def lost_answer(seed: int | str) -> None:
    """Switches a coordinator off once both other replicas have a record; its client appends again."""
    written: list[str] = []
    with _moment(seed) as moment:
        cluster, ask = moment.cluster, Replicas._ask
        moment.append("c1", 0, "vm1")
        moment.await_appends()
        _, (coordinator, *_) = moment.open_block("vm1")

        def ask_and_stop(self: Replicas, event: Any, call: Any, what: str) -> Any:
            answer = ask(self, event, call, what)
            if what == "record":
                written.append(self.peers.me)
                if len(written) == 2:
                    cluster.scheduler.after(0.0, coordinator.power_off)
            return answer

        with mock.patch.object(Replicas, "_ask", ask_and_stop):
            through = moment.others([coordinator])[0].name
            moment.append("c1", 1, through)
            cluster.wait_until(lambda: len(written) >= 2, 10.0)
            moment.await_appends()


def aborted_while_waiting(seed: int | str) -> None:
    """Aborts a put while a piece of it waits for a slot that three slow puts hold."""
    with _moment(seed) as moment:
        process, target = moment.process("c1"), moment.target("vm1")

        def begin(client: Client, name: str) -> str:
            return client.ask(target, messages.BeginPut(name)).message.file_id

        def body() -> None:
            client = Client(auth.client_context(OPERATOR))
            slow = [begin(client, f"slow{number}") for number in range(3)]
            for file_id in slow:
                client.ask(target, messages.PutPiece(file_id, 0), b"x" * 10)
            late = begin(client, "late")
            waiting = threads.start("piece", _try_piece, client, target, late)
            threads.sleep(0.1)
            for file_id in (late, *slow):
                client.ask(target, messages.AbortPut(file_id))
            waiting.join()
            client.close()

        moment.cluster.call(process, body)
        moment.append("c2", 0, "vm1")
        moment.await_appends()


def _try_piece(client: Client, target: Address, file_id: str) -> None:
    with contextlib.suppress(RainStormError):
        client.ask(target, messages.PutPiece(file_id, 0), b"x" * 10)


MOMENTS: dict[str, Callable[[int | str], None]] = {
    moment.__name__: moment
    for moment in (
        refused_promise,
        refused_record,
        failed_flush,
        late_coordinator,
        new_disk_speaks,
        lost_promise,
        lost_after_the_answer,
        lost_answer,
        aborted_while_waiting,
    )
}
