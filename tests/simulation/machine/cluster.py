"""A simulated cluster: real agents on simulated machines, their clients, the faults, and the checks at rest.

with Cluster(seed, 3, {"hydfs": build_store}) as cluster:
    cluster.start()
    writer = cluster.client("writer")
    cluster.call(writer, append_something)
    cluster.nodes["vm1"].kill("hydfs")
    ...
    cluster.settle(20.0)
    cluster.check(cluster.findings())
    cluster.check(cluster.shut_down())

Faults come from the driver, between two steps (``at``, ``after``), or from a thread of the simulation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self, TypeVar

from agent.common.config import NodeConfig, PeerConfig, TlsConfig
from tests.simulation.machine import report
from tests.simulation.machine.host import RESTART_S, Agent, Factory, Machine, Node
from tests.simulation.machine.logbook import Logbook
from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.openfiles import ProcessDisk
from tests.simulation.machine.process import Process
from tests.simulation.machine.scheduler import Scheduler
from tests.simulation.machine.wires import Quality, Wires

T = TypeVar("T")

VOTERS_MAX = 5
START_S_MAX = 60.0
# Something held for a moment is not a leak: the same line must hold it at each of these looks.
LOOKS = 3
LOOKS_APART_S = 4.0
# A time without any event: no frame is on its way and no disk is busy.
QUIET_S = 0.01
QUIET_WITHIN_S = 30.0
# How often a process may log the same problem within a minute in which nothing is wrong.
PROBLEMS_A_MINUTE = 6
# How often within a whole run, whatever its faults: each agent retries less and less often.
PROBLEMS_MAX = 150
OPERATOR = TlsConfig("/etc/rainstorm/ca.pem", "/etc/rainstorm/own.pem", "/etc/rainstorm/own.key")
GOSSIP_KEY = "/etc/rainstorm/gossip.key"
DATA_FOLDER = "/var/lib/rainstorm"


class Broken(AssertionError):
    """A check has failed; the text names it and lists the latest events."""


class Cluster:
    """Machines ``vm1`` ... ``vmN`` with the same agents, and any number of clients."""

    def __init__(
        self,
        seed: int | str,
        size: int,
        factories: Mapping[str, Factory],
        *,
        settings: Mapping[str, Any] | None = None,
        quality: Quality | None = None,
        **scheduling: Any,
    ) -> None:
        """``settings`` are fields of ``NodeConfig``; ``scheduling`` goes to the scheduler.

        The agents start in the order of ``factories``.
        """
        self.seed = seed
        self.scheduler = Scheduler(seed, **scheduling)
        self.random = random.Random(self.scheduler.random.getrandbits(64))
        self.wires = Wires(self.scheduler, quality=quality)
        self.log = Logbook(self.scheduler)
        self.factories = dict(factories)
        # Restarts after crashes, with their reasons; a schedule of failing disks expects some.
        self.crashes: list[tuple[str, str]] = []
        self.looks_apart_s = LOOKS_APART_S
        # A slot that was taken more recently may belong to a long poll.
        self.slots_older_s = 0.0
        # The faults are over; an agent that still ends is started again.
        self.is_healed = False
        # Machines that never come back.
        self.lost: set[str] = set()
        self.nodes: dict[str, Node] = {}
        self.machines: dict[str, Machine] = {}
        names = [f"vm{number}" for number in range(1, size + 1)]
        peers = tuple(PeerConfig(name, f"10.0.0.{number}") for number, name in enumerate(names, 1))
        voters = tuple(names[: VOTERS_MAX if size >= VOTERS_MAX else 3 if size >= 3 else 1])
        config = NodeConfig(
            "simulated", names[0], DATA_FOLDER, OPERATOR, GOSSIP_KEY, peers, voters, voters, log_level="debug"
        )
        config = replace(config, **(settings or {}))
        for peer in peers:
            made = Node(self, peer.name, peer.address, replace(config, name=peer.name))
            self.nodes[peer.name] = self.machines[peer.name] = made
            self.set_up(made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything."""
        self.log.detach()
        self.scheduler.close()

    def set_up(self, machine: Machine) -> None:
        """Writes the files of a deployment to an empty disk."""
        owner = machine.name if isinstance(machine, Node) else "operator"
        for path in (OPERATOR.certificate, OPERATOR.key, OPERATOR.ca):
            machine.install(path, f"{owner} cluster")
        machine.install(GOSSIP_KEY, "00" * 32)

    # -- driving --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all agents and waits until each is ready."""
        for node in self.nodes.values():
            node.start_all()
        self.wait_until(self.is_ready, START_S_MAX)

    def is_ready(self) -> bool:
        """Tells whether every agent answers, of the nodes that are not lost."""
        return all(
            service in node.agents and node.agents[service].is_ready
            for node in self.living()
            for service in self.factories
        )

    def client(self, name: str, on: str | None = None) -> Process:
        """Returns the process of a client, on its own machine or on that of a node."""
        return self.nodes[on].process(name) if on is not None else self.machine(name).process("client")

    def machine(self, name: str) -> Machine:
        """Returns a machine of clients."""
        found = self.machines.get(name)
        if found is None:
            address = f"10.0.1.{len(self.machines) - len(self.nodes) + 1}"
            found = self.machines[name] = Machine(self, name, address)
            self.set_up(found)
        return found

    def call(self, process: Process, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function in a client; returns its result or raises its exception."""
        return self.scheduler.call(process, function, *arguments)

    def wait_until(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Runs until a condition holds, and fails when it does not hold in time."""
        try:
            self.scheduler.run(condition, timeout_s=timeout_s)
        except AssertionError as error:
            raise self.broken([str(error)]) from None

    def after(self, seconds: float, fault: Callable[..., object], *arguments: Any) -> None:
        """Calls ``fault`` between two steps, after ``seconds`` of virtual time."""
        self.scheduler.after(seconds, lambda: self._do(fault, *arguments))

    def _do(self, fault: Callable[..., object], *arguments: Any) -> None:
        self.log.note(f"{fault.__qualname__} {' '.join(map(str, arguments))}")
        fault(*arguments)

    def ended(self, agent: Agent, problem: str) -> None:
        """Notes the end of an agent; one that ended by itself is started again."""
        node, name = agent.node, agent.name
        if problem:
            self.log.note(f"{agent} crashed: {problem}")
            self.crashes.append((str(agent), problem))
        if problem or self.is_healed:
            self.scheduler.after(RESTART_S, lambda: self._restart(node, name, agent))

    def _restart(self, node: Node, name: str, ended: Agent) -> None:
        if node.is_on and node.agents.get(name) is ended:
            node.start(name)

    # -- at rest --------------------------------------------------------------------------------------

    def lose(self, machine: Machine) -> None:
        """Switches a machine off for good."""
        self.lost.add(machine.name)
        if machine.is_on:
            machine.power_off()

    def heal(self) -> None:
        """Ends all faults and starts what is not running, except on machines that are lost for good."""
        self.is_healed = True
        self.wires.heal()
        self.wires.quality = Quality()
        self.wires.forget_qualities()
        for machine in self.machines.values():
            if machine.name in self.lost:
                continue
            machine.disk.faults.clear()
            for process in machine.processes:
                process.seam.network.accept_errors.clear()
            machine.disk.free()
            machine.resume()
            for process in machine.processes:
                process.seam.network.accept_errors.clear()
            if not machine.is_on:
                machine.power_on()
        for node in self.living():
            node.start_all()

    def living(self) -> list[Node]:
        """Returns the nodes that are not lost for good."""
        return [node for node in self.nodes.values() if node.name not in self.lost]

    def settle(self, seconds: float) -> None:
        """Ends all faults, waits until all agents are ready, and gives them time."""
        self.heal()
        self.wait_until(self.is_ready, START_S_MAX)
        self.scheduler.run_for(seconds)

    def findings(self) -> list[str]:
        """Looks at the resting cluster several times and returns the faults that it sees every time.

        Faults are locks that are held, slots that are missing, unresolved futures that a thread waits for,
        threads that died, and problems that are logged again and again.
        """
        self.log.forget()
        began = self.scheduler.now
        seen = set(self._look())
        for _ in range(LOOKS - 1):
            self.scheduler.run_for(self.looks_apart_s)
            seen &= set(self._look())
        minutes = (self.scheduler.now - began) / 60
        return sorted(seen) + self.log.repeated(max(2, round(PROBLEMS_A_MINUTE * minutes)), PROBLEMS_MAX)

    def _look(self) -> list[str]:
        try:
            return self.scheduler.rest(
                quiet_s=QUIET_S, limit_s=QUIET_WITHIN_S, slots_older_s=self.slots_older_s
            )
        except AssertionError:
            return [f"the cluster does not come to rest\n{report.threads(self.scheduler)}"]

    def shut_down(self) -> list[str]:
        """Stops all agents in an orderly way and returns what they leave behind: threads, sockets, files."""
        agents = [agent for node in self.nodes.values() for agent in node.agents.values() if agent.is_running]
        for agent in agents:
            agent.stays = True
            agent.stop()
        try:
            self.scheduler.run(lambda: all(agent.process.stopped for agent in agents), timeout_s=60.0)
            found = self.scheduler.rest(quiet_s=20.0, limit_s=100.0)
        except AssertionError as error:
            return [f"the agents do not stop: {error}"]
        for agent in agents:
            found += [f"{agent} leaves {left} open" for left in _open(agent.process)]
        return found

    def check(self, findings: list[str]) -> None:
        """Fails if there is a finding."""
        if findings:
            raise self.broken(findings)

    def broken(self, findings: list[str]) -> Broken:
        """Returns an error with the problem and the latest events."""
        text = "\n".join(findings)
        return Broken(f"seed {self.seed}: {text}\nlately:\n{self.log.recent()}")

    def trace(self) -> str:
        """Returns a hash of everything that happened; it is equal for equal seeds."""
        return f"{self.scheduler.fingerprint & (1 << 64) - 1:016x}-{self.scheduler.steps}"


def _open(process: Process) -> list[str]:
    network: SimNetwork = process.seam.network
    files: ProcessDisk = process.seam.disk
    return network.open_sockets() + files.open_paths()
