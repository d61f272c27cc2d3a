"""Moments of the stores that chance alone hits too rarely; each is played with a few seeds.

A moment returns a run that has ended, after its checks.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable
from typing import Any
from unittest import mock

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.core import placement
from agent.hydfs.core.events import BlockOpened
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.block import Seal
from agent.hydfs.messages.file import FileStat
from agent.hydfs.shell.put import Puts
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.takeover import Sealer
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.disk import Fault
from tests.simulation.machine.host import Node
from tests.simulation.store.clients import LOG
from tests.simulation.store.moment import APPENDED_S, moment_of
from tests.simulation.store.view import SERVICE

ALWAYS = 1 << 30


def refused_promise(seed: int | str) -> None:
    """Asks a replica whose journal has no room to seal a block while the block's coordinator is cut off.

    The replica restarts, all nodes are connected again, and the coordinator continues with the block. If the
    promise that was never written counted, the file table would have sealed the block by then.
    """
    with moment_of(seed) as moment:
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
        return  # it cannot be sealed, as the moment expects
    finally:
        client.close()


def refused_record(seed: int | str) -> None:
    """Makes the disk of a replica refuse one record, and sends another one behind it."""
    with moment_of(seed) as moment:
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
    """Makes a flush of a replica's journal fail; cuts its power once its agent has restarted and continued.

    The kernel shows the agent bytes that it never wrote to disk, and does not fail the next flush.
    """
    with moment_of(seed) as moment:
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
    """Pauses a node that has just opened a block, and makes a replica seal the block, empty, in that time.

    When the node continues it has an append to make; the replicas that it writes to have dropped the block.
    """
    opened: list[BlockOpened] = []
    with moment_of(seed) as moment:
        cluster, post = moment.cluster, Replicas.post

        def post_and_stop(self: Replicas, event: Any) -> None:
            if isinstance(event, BlockOpened) and not opened:
                opened.append(event)
                node = cluster.nodes[self.peers.me]
                moment.isolate(node)
                node.pause()
            post(self, event)

        file_id = moment.ask("vm1", lambda hydfs: hydfs.stat(LOG)).file_id
        first = placement.order(file_id, 0, list(cluster.nodes))[0]
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

    Five of the seven nodes vote, so in most seeds there is a majority without the three replicas.
    """
    with moment_of(seed, size=7) as moment:
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
    """Pauses a node after it got promises and before the seal; a replica that promised loses power.

    Then the old coordinator writes to that replica again. A promise that was durable still holds.
    """
    stopped: list[Node] = []
    with moment_of(seed, "quorum") as moment:
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
    """Loses two nodes for good after an answer in which one replica of the block had no part."""
    with moment_of(seed) as moment:
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
    """Switches a coordinator off once both other replicas have a record; its client repeats the append."""
    written: list[str] = []
    with moment_of(seed) as moment:
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


def lost_put_answers(seed: int | str) -> None:
    """Breaks the connections of a client when its put has begun, and again when it has been committed.

    Each time the agent has carried out the request but cannot answer; the client repeats it.
    """
    losses: list[str] = []
    with moment_of(seed) as moment:
        process = moment.process("c1")

        def lose(step: str, result: Any) -> Any:
            if step not in losses:
                losses.append(step)
                process.seam.network.break_streams()
            return result

        reserve, publish = Puts._reserve, Puts._publish
        content = b"x" * moment.cluster.random.randint(1, 600)

        def body() -> tuple[FileStat, bytes]:
            client = Client(auth.client_context(OPERATOR))
            hydfs = HydfsClient(client, moment.target("vm1"))
            hydfs.health()  # a connection that the put finds in the pool
            stat = hydfs.put("file", io.BytesIO(content))
            found = bytes(hydfs.read("file", 0, 1000))
            hydfs.delete("file")
            client.close()
            return stat, found

        with (
            mock.patch.object(Puts, "_reserve", lambda *a: lose("begin", reserve(*a))),
            mock.patch.object(Puts, "_publish", lambda *a: lose("commit", publish(*a))),
        ):
            stat, found = moment.cluster.call(process, body)
        assert losses == ["begin", "commit"]
        assert (stat.length, found) == (len(content), content)
        puts = {
            name: len(service._puts._puts) for name, service in moment.services().items() if service._puts
        }
        assert not any(puts.values()), f"puts are left: {puts}"
        moment.append("c2", 0, "vm1")


def aborted_while_waiting(seed: int | str) -> None:
    """Aborts a put while a piece of it waits for a slot that three slow puts hold."""
    with moment_of(seed) as moment:
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
        lost_put_answers,
        aborted_while_waiting,
    )
}
