"""The wire under a schedule of faults: slow, silent, broken and hostile peers, kills, stops, partitions.

During the run the callers check W1, W2 and W5. After the faults: W3 nothing is held (no place, no lock, no
connection of a vanished peer, no request in progress, no open file); W4 a server that is stopped ends in
time and leaves nothing behind; W6 no agent crashes and no thread dies; W7 the next call of every caller is
answered, although its idle connections may be dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from unittest import mock

from agent.wire import server
from tests.simulation.machine.cluster import Broken
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.host import Machine
from tests.simulation.machine.schedule import Schedule, Step, draw
from tests.simulation.wire import peers
from tests.simulation.wire.agent import WIRE
from tests.simulation.wire.callers import Caller
from tests.simulation.wire.cluster import WireCluster

FAULTS_S = 2.0
# The longest time-out of a call, and the time that the peers of a stopped agent need to notice.
ENDED_S = 12.0
LAST_CALL_S = 3.0
# The time after which a peer that is silent for good is known to be gone.
SILENT_S = 70.0
STOPPED_S = 3.5
STALLS = (0.0, 0.0, 0.002)
KINDS = (
    *("kill", "restart", "rolling_restart", "power", "pause", "cut", "isolate", "deafen", "silence"),
    *("slow_wires", "slow_disk", "no_descriptors"),
)
EXTRA: dict[str, int | str] = {
    "visit": 1,
    "visit_locally": 1,
    "abort": 1,
    "close_client": 1,
    "caller_power": 1,
    "crowd": 1,
    "filter_caller": 1,
}
MOMENTS = (
    *("answered", "DEADLINE_EXCEEDED", "CONNECTION_LOST", "UNREACHABLE", "OVERLOADED", "NOT_FOUND"),
    "INTERNAL",
    *("client closed", "caller killed", "caller without power", "agent stopped under load", "visitors"),
    *("connection refused: too many", "crowded"),
)
# More calls at once than a client makes, and fewer connections than some floods open.
CROWD = 40
CONNECTIONS = (server.CONNECTIONS_MAX, server.CONNECTIONS_MAX, 30)


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements of one run."""

    trace: str
    hits: Mapping[str, int]


def schedule_of(seed: int | str, only: Sequence[str] = ()) -> Schedule:
    """Returns the schedule of a seed, of ``only`` some kinds of fault when they are named."""
    kinds = tuple(only) or (*KINDS, *EXTRA)
    schedule = draw(f"wire:{seed}", FAULTS_S * 0.8, sizes=(2,), kinds=kinds, extra=EXTRA)
    chance = Random(f"wire:{seed}:variant")
    return replace(schedule, variant=f"{chance.choice(STALLS):g} {chance.choice(CONNECTIONS)}")


class WireFaults(Faults):
    """The faults of the wire; ``cut`` and similar kinds hit a remote caller as well as a node."""

    def __init__(self, cluster: WireCluster, steps: Sequence[Step]) -> None:
        self.members = cluster
        super().__init__(cluster, steps)

    def _apply(self, step: Step) -> None:
        if not self.is_over:
            self.members.hits[f"fault {step.kind}"] += 1
        super()._apply(step)

    def _caller(self, step: Step) -> Caller:
        return self.members.callers[int(step.amount * len(self.members.callers))]

    def _restart(self, step: Step) -> None:
        agent = self.members.nodes[step.nodes[0]].agents[WIRE]
        if agent.is_running and self.members.agent(step.nodes[0]).server.in_progress:
            self.members.hits["agent stopped under load"] += 1
        super()._restart(step)

    def _pause(self, step: Step) -> None:
        node = self._node(step)
        for caller in self.members.callers:
            if caller.machine is node:
                caller.is_paused = True  # for good: a call that waits during it may end late
        super()._pause(step)

    def _power(self, step: Step) -> None:
        super()._power(step)
        self.later(step, self._restart_callers)

    def _restart_callers(self) -> None:
        for caller in self.members.callers:
            caller.restart()

    def _visit(self, step: Step) -> None:
        """Lets hostile peers connect over TLS."""
        node = self._node(step)
        self._let_in(step, peers.Door(node.address, node.config.me.hydfs_port, "", step.duration_s))

    def _visit_locally(self, step: Step) -> None:
        """Lets hostile processes of the same machine connect over the Unix socket."""
        node = self._node(step)
        path = node.config.socket_path(WIRE)
        self._let_in(step, peers.Door(node.address, 0, path, step.duration_s), node)

    def _let_in(self, step: Step, door: peers.Door, machine: Machine | None = None) -> None:
        process = (machine or self.members.machine("stranger")).process("stranger")
        for visit in peers.VISITS:
            process.start(visit.__name__, peers.run, visit, door)
        self.members.hits["visitors"] += 1
        self.later(step, lambda: self.cluster.scheduler.kill(process))
        self.members.strangers.append(process)

    def _abort(self, step: Step) -> None:
        """Kills a caller in the middle of its calls."""
        caller = self._caller(step)
        if not caller.process.dead:
            caller.kill()
            self.members.hits["caller killed"] += 1
            self.later(step, caller.restart)

    def _close_client(self, step: Step) -> None:
        """Closes a client in the middle of its calls."""
        caller = self._caller(step)
        if not caller.process.dead and not caller.process.paused:
            caller.close_client()
            self.members.hits["client closed"] += 1

    def _caller_power(self, step: Step) -> None:
        """Cuts the power of a remote caller: its connections stay open without a peer."""
        caller = self.members.callers[-1]
        machine = caller.machine
        if not machine.is_on:
            return
        machine.power_off()
        self.members.hits["caller without power"] += 1
        if step.amount < 0.5:  # otherwise it stays off until all faults end
            self.later(step, lambda: self._power_on(machine))

    def _power_on(self, machine: Machine) -> None:
        machine.power_on()
        self._restart_callers()

    def _crowd(self, step: Step) -> None:
        """Makes more calls at once from one process than a client makes."""
        caller, (name,) = self._caller(step), step.nodes
        if caller.process.dead or caller.process.paused:
            return
        for _ in range(CROWD):
            caller.process.start("crowd", caller.call, name, 0.3, 2 + 8 * 99)
        self.members.hits["crowded"] += 1

    def _filter_caller(self, step: Step) -> None:
        """Blocks the traffic to a remote caller, or the traffic from it."""
        caller, node = self.members.callers[-1], self._node(step)
        here, there = caller.machine.address, node.address
        self._cut_pairs(step, [(there, here)] if step.amount < 0.5 else [(here, there)])


def run(schedule: Schedule) -> Result:
    """Runs one schedule to its end.

    Raises:
        AssertionError: a check failed; the message begins with its number.
    """
    stalls, limit = (schedule.variant or f"0 {server.CONNECTIONS_MAX}").split()
    with (
        mock.patch.object(server, "CONNECTIONS_MAX", int(limit)),
        WireCluster(schedule.seed, schedule.size, quality=schedule.quality, stalls=float(stalls)) as cluster,
    ):
        cluster.start()
        faults = WireFaults(cluster, schedule.steps)
        cluster.run_for(FAULTS_S)
        faults.end()
        _wait(cluster, lambda: not _stopping(cluster), "W4: all agents stop when asked to")
        for node in cluster.nodes.values():
            node.start_all()
        for caller in cluster.callers:
            caller.stop()
        for process in cluster.strangers:
            cluster.scheduler.kill(process)
        _wait(cluster, lambda: all(each.is_idle for each in cluster.callers), "W1: every call has an end")
        _wait(cluster, cluster.is_ready, "every agent is ready")
        cluster.check(cluster.violations)
        cluster.hits["connection refused: too many"] += cluster.refused
        last_calls(cluster)
        check_rest(cluster)
        check_stop(cluster)
        cluster.check(cluster.violations)
        for caller in cluster.callers:
            cluster.hits.update(caller.outcomes)
        return Result(cluster.trace(), dict(cluster.hits))


def _wait(cluster: WireCluster, condition: Callable[[], object], what: str) -> None:
    try:
        cluster.wait_until(condition, ENDED_S)
    except Broken as error:
        raise cluster.broken([*cluster.violations, what, str(error)]) from None


def _stopping(cluster: WireCluster) -> bool:
    agents = [node.agents[WIRE] for node in cluster.nodes.values()]
    return any(agent.is_running and agent.is_asked_to_stop for agent in agents)


def last_calls(cluster: WireCluster) -> None:
    """W7: every live caller is answered at once, whatever happened to its connections."""
    for caller in cluster.callers:
        if caller.process.dead:
            continue
        for name in cluster.nodes:
            outcome = cluster.call(caller.process, caller.finish, name, LAST_CALL_S)
            if outcome != "answered":
                raise cluster.broken([f"W7: the next call of {caller.machine.name} to {name}: {outcome}"])


def check_rest(cluster: WireCluster) -> None:
    """W3 and W6: nothing is held, and nothing has crashed."""
    found = [
        f"W3: {caller.machine.name} keeps {caller.places} places"
        for caller in cluster.callers
        if caller.places
    ]
    for caller in cluster.callers:
        cluster.scheduler.kill(caller.process)
    cluster.scheduler.run_for(SILENT_S)
    found += [f"W3: {finding}" for finding in cluster.findings()]
    for name, node in cluster.nodes.items():
        server = cluster.agent(name).server
        if server._connections or server.in_progress:
            known = [connection.peer for connection, _ in server._connections.values()]
            found.append(f"W3: {name} keeps {len(known)} connections of {sorted(set(known))}")
        files = node.agents[WIRE].process.seam.disk
        found += [f"W3: {name} keeps {path} open" for path in files.open_paths()]
    found += [f"W6: {agent} crashed: {problem}" for agent, problem in cluster.crashes]
    cluster.check(found)


def check_stop(cluster: WireCluster) -> None:
    """W4: agents stop in time and leave nothing behind, although they have idle connections."""
    idle = Caller(cluster, cluster.machine("idler"), list(cluster.nodes), 0)
    for name in cluster.nodes:
        cluster.call(idle.process, idle.finish, name, LAST_CALL_S)
    began = cluster.scheduler.now
    agents = [node.agents[WIRE] for node in cluster.nodes.values()]
    for agent in agents:
        agent.stays = True
        agent.stop()
    _wait(cluster, lambda: all(agent.process.stopped for agent in agents), "W4: the agents stop")
    took_s = cluster.scheduler.now - began
    cluster.require(took_s <= STOPPED_S, f"W4: stopping took {took_s:.1f} s")
    cluster.check([f"W4: {finding}" for finding in cluster.shut_down()])
