"""One run of the register: voters under a schedule of faults, clients, and the checks.

It checks the history (``history``) and the rules of the voters (``ballots``), and in addition: G4 after the
faults a read returns within its bound, with everything that was ever acknowledged; G5 after the faults each
voter with a sound disk votes.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.common.config import NodeConfig
from agent.common.errors import RainStormError
from agent.common.register import Proposal
from agent.common.shell import threads
from agent.wire import auth
from agent.wire.client import Address, Client, Target, dial_from
from agent.wire.register.proposer import Registers
from agent.wire.register.voter import Voter
from agent.wire.server import Server
from tests.simulation.machine.cluster import DATA_FOLDER, OPERATOR, Cluster
from tests.simulation.machine.disk import Fault
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.host import Agent, Node
from tests.simulation.machine.schedule import Schedule, Step, draw
from tests.simulation.machine.thread import SimThread
from tests.simulation.register.ballots import Ballots
from tests.simulation.register.history import Invocation, check
from tests.simulation.register.moments import REFUSED_VOTE, TORN, counted

KEY, PREFIX = "list", "view"
SERVICE = "voter"
FAULTS_S = 4.0
ANSWERED_S = 60.0
OPERATION_TIMEOUT_S = 1.5
# Clients work in bursts, in which they meet each other; pauses spread the bursts over the time of the faults.
BURST_SHARE = 0.7
THINK_MEAN_S, PAUSE_MEAN_S = 0.004, 0.7
READ_SHARE = 0.4
RETRY_SHARE = 0.5
SUBMISSIONS_MAX = 60
# How many clients live in the agents of voters, as the proposers of a real cluster do, and on a machine of
# their own.
INNER, OUTER = 2, 1
LOOK_S = 0.05
# A proposal outlives a client's time limit by at most the delay of a partition.
FORGOTTEN_VOTES_S = OPERATION_TIMEOUT_S + 6.0
PATIENCE_S = 1.0
# The faults of voters. A bit of a voter's log flips while its machine is off: that voter is lost. A voter
# crashes, and is back at once, while two clients wait for its promise. A voter comes back with an empty disk.
# All founders that do not vote yet lose power a moment after the first one does vote; or the disks of all but
# one of them fail as they write their logs. A loss of power tears the record of a vote.
EXTRA: dict[str, int | str] = {"flip": 1, "bounce": 1, "forget": 1, "founding": 0, "tear": 1}
AMBUSH_S, AMBUSH_STEP_S = 2.0, 0.0005
# The time that a founder takes to write.
FOUNDING_S = 0.02
POWER_SHARE = 0.5
LOG = f"{DATA_FOLDER}/voter/registers.log"
LOG_BYTES_MIN = 400
DISK_ERRORS = ("DiskFull(", "DiskFailed(", "OSError(")
MOMENTS = (
    "lost a race",
    "outcome unknown",
    "the same append again",
    "read by a round",
    "voter crashed under two proposals",
    "founding interrupted",
    "a voter forgot",
    "a voter learnt",
    "a log rotted",
    TORN,
    REFUSED_VOTE,
)


def schedule_of(seed: int | str, kinds: tuple[str, ...] = ()) -> Schedule:
    """Returns the schedule of a seed, of some kinds of fault when they are named."""
    found = draw(
        f"register:{seed}", FAULTS_S * 0.9, kinds=kinds, extra=EXTRA, sizes=(3, 3, 3, 5), once=("founding",)
    )
    # A cluster is founded at the beginning.
    steps = [replace(step, at_s=0.0) if step.kind == "founding" else step for step in found.steps]
    return replace(found, steps=tuple(sorted(steps, key=lambda step: step.at_s)))


def _targets(config: NodeConfig) -> dict[str, Target]:
    return {peer.name: Address(peer.address, peer.hydfs_port, peer.name) for peer in config.peers}


class VoterAgent:
    """The smallest agent with a voter: the part that the agents of membership and the store share."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self._config = config
        self._client = Client(auth.client_context(config.tls), dial=dial_from(config.me.address))
        targets = _targets(config)
        self.registers = Registers(config.name, PREFIX, self._client, targets)
        self.voter = Voter(
            config.name,
            PREFIX,
            Path(DATA_FOLDER) / "voter",
            self._client,
            targets,
            self.registers,
            self.registers.keys,
            on_crash,
            patience_s=PATIENCE_S,
            forgotten_votes_s=FORGOTTEN_VOTES_S,
        )
        self.server = Server("voter", self.voter.endpoints())

    def start(self) -> None:
        """Listens, and begins to find out whether this disk may vote."""
        me = self._config.me
        self.server.listen_tls(me.address, me.hydfs_port, auth.server_context(self._config.tls))
        self.voter.start()

    def stop(self, timeout_s: float) -> None:
        """Stops everything."""
        self.server.stop(timeout_s)
        self.registers.close()
        self._client.close()
        self.voter.stop(timeout_s)


class RegisterRun:
    """A run in progress."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.hits: Counter[str] = Counter()
        self.history: list[Invocation] = []
        # Proposals in progress, for the ambush.
        self.proposals: dict[Proposal, None] = {}
        self.flipped: dict[str, None] = {}
        self.blank: dict[str, None] = {}
        self.cluster = Cluster(
            schedule.seed,
            schedule.size,
            {SERVICE: VoterAgent},
            settings={"voters": tuple(schedule.names())},
            quality=schedule.quality,
            steps_max=400_000,
        )
        self.ballots = Ballots(self.cluster.scheduler, schedule.names())
        self.faults = Faults(
            self.cluster,
            schedule.steps,
            {
                "flip": self._flip,
                "forget": self._forget,
                "bounce": self._bounce,
                "tear": self._tear,
                "founding": self._interrupt_founding,
            },
        )
        self._stopping = False
        self._clients: list[SimThread] = []
        # The last life of each agent that a client was started in.
        self._inhabited: dict[str, Agent] = {}

    # -- clients --------------------------------------------------------------------------------------

    def _inhabit(self) -> None:
        """Starts a client in each life of the agents that have one."""
        if self._stopping:
            return
        for name in self.schedule.names()[:INNER]:
            agent = self.cluster.nodes[name].agents[SERVICE]
            if agent.is_ready and self._inhabited.get(name) is not agent:
                self._inhabited[name] = agent
                self._clients.append(agent.process.start("client", self._inner_client, agent))
        self.cluster.scheduler.after(LOOK_S, self._inhabit)

    def _inner_client(self, agent: Agent) -> None:
        assert isinstance(agent.service, VoterAgent)
        # Unlike the names of threads this one never comes again.
        name = f"{agent.node.name}-{len(self._clients)}"
        self._work(agent.service.registers, name, lambda: self._stopping or agent.is_asked_to_stop)

    def _outer_client(self, name: str) -> None:
        client = Client(auth.client_context(OPERATOR))
        registers = Registers(name, PREFIX, client, _targets(self.cluster.nodes["vm1"].config))
        self._work(registers, name, lambda: self._stopping)
        registers.close()
        client.close()

    def _work(self, registers: Registers, name: str, is_over: Callable[[], bool]) -> None:
        chance = random.Random(f"{self.schedule.seed}:{name}")
        number = 0
        while not is_over() and len(self.history) < SUBMISSIONS_MAX:
            mean_s = THINK_MEAN_S if chance.random() < BURST_SHARE else PAUSE_MEAN_S
            threads.sleep(chance.expovariate(1.0) * mean_s)
            if chance.random() < READ_SHARE:
                self._invoke(registers, name, None)
                continue
            number += 1
            found = self._invoke(registers, name, f"{name}/{number}")
            while found.value is None and chance.random() < RETRY_SHARE and not is_over():
                self.hits["the same append again"] += 1
                found = self._invoke(registers, name, found.name)

    def _invoke(self, registers: Registers, client: str, name: str | None) -> Invocation:
        found = Invocation(client, name, threads.monotonic())
        self.history.append(found)

        def append(value: Any) -> Any:
            names = list(value or [])
            return names if name in names else [*names, name]

        try:
            if name is None:
                value = registers.read(KEY, timeout_s=OPERATION_TIMEOUT_S)
            else:
                value = registers.change(KEY, append, timeout_s=OPERATION_TIMEOUT_S)
        except RainStormError:
            self.hits["outcome unknown"] += 1
            return found
        found.ended_at, found.value = threads.monotonic(), tuple(value or ())
        return found

    # -- the run --------------------------------------------------------------------------------------

    def play(self) -> None:
        """Runs everything to its end and checks it."""
        cluster = self.cluster
        for node in cluster.nodes.values():
            node.start_all()
        for number in range(1, OUTER + 1):
            name = f"c{number}"
            self._clients.append(cluster.client(name).start("client", self._outer_client, name))
        self._inhabit()
        cluster.scheduler.run_for(FAULTS_S)
        cluster.check(self.ballots.problems)
        for name in self.flipped:
            cluster.lose(cluster.nodes[name])  # its log is damaged: it refuses to start
        self.faults.end()
        cluster.scheduler.run_for(1.0)
        self._stopping = True
        cluster.wait_until(lambda: not any(client.is_alive() for client in self._clients), ANSWERED_S)
        cluster.wait_until(self._all_vote, ANSWERED_S)
        reader = cluster.client("reader")
        cluster.call(reader, self._read_last)
        cluster.check(self.ballots.problems or check(self.history) or self._crashes())
        cluster.check(cluster.findings())
        cluster.check(cluster.shut_down())

    def _all_vote(self) -> bool:
        """G5."""
        return all(agent.voter.votes for agent in self._agents())

    def _agents(self) -> list[VoterAgent]:
        services = [node.agents[SERVICE].service for node in self.cluster.living()]
        return [service for service in services if isinstance(service, VoterAgent)]

    def _read_last(self) -> None:
        """G4."""
        client = Client(auth.client_context(OPERATOR))
        registers = Registers("reader", PREFIX, client, _targets(self.cluster.nodes["vm1"].config))
        found = self._invoke(registers, "reader", None)
        assert found.value is not None, "G4: the last read fails"
        registers.close()
        client.close()

    def _crashes(self) -> list[str]:
        return [
            f"{agent} crashed: {problem}"
            for agent, problem in self.cluster.crashes
            if not (problem.startswith("Corrupt(") and agent.split("/")[0] in self.flipped)
            and not (problem.startswith(DISK_ERRORS) and agent.split("/")[0] in self.faults.disks_hurt)
        ]

    # -- faults of voters -----------------------------------------------------------------------------

    def _may_lose(self, name: str) -> bool:
        """Tells whether more than half of the voters remember without this one."""
        blank = {node.name for node in self.cluster.nodes.values() if LOG not in node.disk.paths()}
        return len({name, *self.flipped, *self.blank, *blank}) <= (len(self.cluster.nodes) - 1) // 2

    def _forget(self, step: Step) -> None:
        node = self.cluster.nodes[step.nodes[0]]
        if node.is_on and self._may_lose(node.name):
            self.hits["a voter forgot"] += 1
            self.blank[node.name] = None
            self.ballots.empty(node.name, had_memory=LOG in node.disk.paths())
            self.faults.cut_power([node], step)
            node.replace_disk()

    def _flip(self, step: Step) -> None:
        """Flips a bit in the first half of a log, where it cannot be taken for a torn record."""
        node = self.cluster.nodes[step.nodes[0]]
        if not node.is_on or not self._may_lose(node.name) or LOG not in node.disk.paths():
            return
        self.faults.cut_power([node], step)
        size = len(node.disk.file(LOG).durable)
        if size > LOG_BYTES_MIN:
            node.disk.flip_bit(LOG, int(step.amount * (size // 2)))
            self.flipped[node.name] = None
            self.hits["a log rotted"] += 1

    def _tear(self, step: Step) -> None:
        self._await_write(self.cluster.nodes[step.nodes[0]], self.cluster.scheduler.now + AMBUSH_S)

    def _await_write(self, node: Node, until: float) -> None:
        if self.faults.is_over or self.cluster.scheduler.now > until:
            return
        if node.is_on and LOG in node.disk.paths() and node.disk.file(LOG).pending:
            node.power_off("torn")
            node.start_all()
            return
        self.cluster.scheduler.after(AMBUSH_STEP_S, lambda: self._await_write(node, until))

    def _interrupt_founding(self, step: Step) -> None:
        if step.amount < POWER_SHARE:
            self._await_founder(step)
            return
        self.hits["founding interrupted"] += 1
        spared = int(step.amount * 1000) % len(self.cluster.nodes)
        for number, node in enumerate(self.cluster.nodes.values()):
            if number != spared:
                self.faults.disks_hurt.add(node.name)
                node.disk.faults.append(Fault("open", f"{LOG}.new", error=errno.EIO))

    def _await_founder(self, step: Step) -> None:
        scheduler = self.cluster.scheduler
        if any(agent.voter.votes for agent in self._agents()):
            scheduler.after(step.amount * FOUNDING_S, lambda: self._cut_off_founders(step))
        elif not self.faults.is_over:
            scheduler.after(AMBUSH_STEP_S, lambda: self._await_founder(step))

    def _cut_off_founders(self, step: Step) -> None:
        services = {name: node.agents[SERVICE].service for name, node in self.cluster.nodes.items()}
        late = [
            self.cluster.nodes[name]
            for name, service in services.items()
            if not (isinstance(service, VoterAgent) and service.voter.votes)
        ]
        if late and not self.faults.is_over:
            self.hits["founding interrupted"] += 1
            self.faults.cut_power(late, step)

    def _bounce(self, step: Step) -> None:
        self._ambush(self.cluster.nodes[step.nodes[0]], self.cluster.scheduler.now + AMBUSH_S)

    def _ambush(self, node: Node, until: float) -> None:
        if self.faults.is_over or self.cluster.scheduler.now > until:
            return
        waiting = sum(proposal._phase == "prepare" and bool(proposal._answers) for proposal in self.proposals)
        agent = node.agents.get(SERVICE)
        if waiting >= 2 and isinstance(agent, Agent) and agent.is_running:
            self.hits["voter crashed under two proposals"] += 1
            node.power_off()
            node.start_all()
            return
        self.cluster.scheduler.after(AMBUSH_STEP_S, lambda: self._ambush(node, until))


def run(schedule: Schedule) -> RegisterRun:
    """Runs one schedule.

    Raises:
        AssertionError: a check failed.
    """
    found = RegisterRun(schedule)
    with counted(found.hits, found.proposals), found.ballots.watched(KEY), found.cluster:
        found.play()
    return found
