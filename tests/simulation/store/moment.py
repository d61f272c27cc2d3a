"""A run of the stores in which a moment makes the faults and appends itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.messages.file import FileStat
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.host import Node
from tests.simulation.machine.process import Process
from tests.simulation.machine.schedule import Schedule
from tests.simulation.store.clients import LOG
from tests.simulation.store.world import StoreRun, small_sizes

# A moment may lose any two nodes.
VOTERS = 5
APPENDED_S = 30.0
SETTLED_S = 30.0
# Long enough to stop waiting for a silent coordinator and have its block sealed.
ATTEMPT_S = 4.0


class Moment(StoreRun):
    """A run whose faults and appends a moment makes itself."""

    def __init__(self, seed: int | str, ack: str, size: int) -> None:
        super().__init__(Schedule(seed, size), ack=ack, voters=VOTERS, with_clients=False)
        self._processes: dict[str, Process] = {}
        self.cluster.start()
        self.authority.begin(self.cluster)
        # As long as disks are new, promises are doubtful.
        self.cluster.wait_until(self._all_settled, SETTLED_S)

    def _all_settled(self) -> bool:
        return not any(service._new_disk.pending for service in self.services().values())

    def append(self, writer: str, sequence: int, through: str, size: int = 20) -> None:
        """Begins to append a line, and repeats the append until it is acknowledged."""
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
        """Sends a request to an agent."""

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
        """Cuts a node off from the others."""
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
def moment_of(seed: int | str, ack: str = "all", size: int = 5) -> Iterator[Moment]:
    with small_sizes():
        found = Moment(seed, ack, size)
        with found.copies.watched(), found.cluster:
            found.ask("vm1", lambda hydfs: hydfs.create(LOG))
            yield found
            found.faults.end()
            found.await_appends()
            found.finish()
