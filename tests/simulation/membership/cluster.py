"""A simulated cluster of unchanged membership agents, with neighbours attached to them.

The agent under test is ``agent.membership.service.Service`` itself; a subclass reports its decisions to the
history and checks the core's invariants. The neighbour stands for the other agents of a node: it has the real
attachment and the real follower of the view, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.common.config import MembershipConfig, NodeConfig
from agent.membership.attachment import Attachment
from agent.membership.core import events
from agent.membership.core.monitor import Monitor
from agent.membership.follower import ViewFollower
from agent.membership.member import Member, State
from agent.membership.service import Service
from agent.membership.view import View
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.host import Node
from tests.simulation.machine.wires import Quality
from tests.simulation.membership.history import History, Sighting

MEMBERSHIP, NEIGHBOUR = "membership", "hydfs"
FORMED_S = 10.0
# Far above the need of any schedule: a run with more steps has a spinning loop.
STEPS_MAX = 600_000
STALL_S_MAX = 0.02
# A stopping server waits a second for requests in progress; all others end at once.
STOPPED_S = 2.0
# How often conditions are evaluated: they look at all nodes.
LOOK_S = 0.005
# A poll of the follower, with its margin, has ended by then; a slot that is out for longer is lost.
POLL_S = 12.5
# Three looks, between which every loop of an agent makes progress; the slowest runs once a second.
LOOKS_APART_S = 1.0


class Observed(Service):
    """The membership agent, which also reports its actions."""

    def __init__(
        self, config: NodeConfig, on_crash: Callable[[BaseException], None], cluster: MembershipCluster
    ) -> None:
        super().__init__(config, on_crash)
        self._cluster = cluster

    @property
    def monitor(self) -> Monitor | None:
        """Returns the monitor once there is one."""
        return self._core.monitor if self._core is not None else None

    def start(self) -> None:
        super().start()
        self._cluster.history.began(self.core.monitor.me, self._cluster.nodes[self.config.name].disk)

    def stop(self, timeout_s: float = 5.0) -> None:
        began = self._cluster.scheduler.now
        super().stop(timeout_s)
        took_s = self._cluster.scheduler.now - began
        if self._cluster.is_calm:
            self._cluster.history.require(took_s <= STOPPED_S, f"M11: stopping took {took_s:.1f} s")

    def _execute(self, effect: events.Effect) -> None:
        cluster, history = self._cluster, self._cluster.history
        match effect:
            case events.SendDatagram():  # most of all effects
                super()._execute(effect)
                return
            case events.AnnounceMember(member=member, before=before):
                sighting = Sighting(cluster.scheduler.now, self.config.name, member, before)
                history.saw(sighting, self.core.monitor.me.boot)
            case events.AnnounceView(view=view):
                history.learned(view)
            case events.AdoptBoot():
                history.hits["boot adopted"] += 1
            case _:
                super()._execute(effect)
                return
        self._check()
        super()._execute(effect)

    def _use_register(self, job: events.ReadView | events.ChangeView) -> events.Event:
        outcome = super()._use_register(job)
        if isinstance(outcome, events.ViewLearned):
            self._cluster.history.learned(outcome.view)
        return outcome

    def _check(self) -> None:
        try:
            self.core.check_invariants()
        except AssertionError as error:
            self._cluster.history.require(False, f"{self.config.name}: {error}")


class Neighbour:
    """Another agent of the node, as membership sees it."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        path = config.socket_path("membership")
        names = [peer.name for peer in config.peers]
        self.attachment = Attachment(path, NEIGHBOUR)
        self.follower = ViewFollower(NEIGHBOUR, path, names)
        # The versions that a subscriber received.
        self.told: list[int] = []

    def start(self) -> None:
        """Attaches and follows."""
        self.follower.subscribe(self._take)
        self.attachment.start()
        self.follower.start()

    def stop(self, timeout_s: float) -> None:
        """Ends both."""
        self.attachment.stop(timeout_s)
        self.follower.stop(timeout_s)

    def _take(self, view: View) -> None:
        self.told.append(view.version)


class MembershipCluster(Cluster):
    """Nodes with a membership agent, and optionally a neighbour."""

    def __init__(
        self,
        seed: int | str,
        nodes: int = 5,
        voters: int = 5,
        *,
        config: MembershipConfig | None = None,
        link: Quality | None = None,
        stalls: float = 0.0,
        neighbours: bool = False,
    ) -> None:
        names = [f"vm{number}" for number in range(1, nodes + 1)]
        self.names = names
        self.voters = voters
        self.history = History(names, voters, self.monitor)
        factories: dict[str, Callable[..., Service | Neighbour]] = {MEMBERSHIP: self._observed}
        if neighbours:
            factories[NEIGHBOUR] = Neighbour
        super().__init__(
            seed,
            nodes,
            factories,
            settings={"voters": tuple(names[:voters]), "membership": config or MembershipConfig()},
            quality=link,
            steps_max=STEPS_MAX,
            stall_chance=stalls,
            stall_s_max=STALL_S_MAX,
        )
        self.looks_apart_s = LOOKS_APART_S
        # No fault is in force: everything must be quick.
        self.is_calm = False
        self.slots_older_s = POLL_S

    def _observed(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> Service:
        process = self.nodes[config.name].agents[MEMBERSHIP].process
        process.on_kill.append(lambda: self.history.note_own(config.name))
        return Observed(config, on_crash, self)

    # -- inspecting agents ----------------------------------------------------------------------------

    def service(self, name: str) -> Observed:
        """Returns the agent of a node."""
        found = self.nodes[name].agents[MEMBERSHIP].service
        assert isinstance(found, Observed)
        return found

    def neighbour(self, name: str) -> Neighbour:
        """Returns the neighbour of a node."""
        found = self.nodes[name].agents[NEIGHBOUR].service
        assert isinstance(found, Neighbour)
        return found

    def monitor(self, name: str) -> Monitor | None:
        """Returns the monitor of a node, if its agent already has one."""
        node: Node | None = self.nodes.get(name)
        agent = node.agents.get(MEMBERSHIP) if node is not None else None
        service = agent.service if agent is not None else None
        return service.monitor if isinstance(service, Observed) else None

    def monitor_of(self, name: str) -> Monitor:
        """Returns the monitor of a node that runs."""
        found = self.monitor(name)
        assert found is not None
        return found

    def running(self) -> list[str]:
        """Returns the names of the nodes whose agents are ready."""
        return [name for name in self.names if self._is_ready(self.nodes[name])]

    @staticmethod
    def _is_ready(node: Node) -> bool:
        agent = node.agents.get(MEMBERSHIP)
        return node.is_on and agent is not None and agent.is_running and agent.is_ready

    def view(self, name: str) -> View | None:
        """Returns the view that a node's core knows."""
        return self.service(name).core.proposer.view

    def up(self, name: str) -> list[str]:
        """Returns the nodes that are up in the view that ``name`` knows."""
        view = self.view(name)
        return view.up_names() if view is not None else []

    def agree_on(self, names: Sequence[str], observers: Sequence[str] | None = None) -> bool:
        """Tells whether all observers know the same view, with exactly ``names`` up and alive."""
        watching = self.running() if observers is None else observers
        if observers is None and not set(names) <= set(watching):
            return False
        wanted = sorted(names)
        current = [self.view(name) for name in watching]
        if any(view is None or view != current[0] or view.up_names() != wanted for view in current):
            return False
        return all(
            sorted(m.name for m in list(self.monitor_of(name).table) if m.state is State.ALIVE) == wanted
            for name in watching
        )

    def believes(self, observer: str, name: str) -> Member | None:
        """Returns one node's beliefs about another one."""
        return self.monitor_of(observer).table.get(name)

    def believed_dead(self, name: str, observers: Sequence[str]) -> bool:
        """Tells whether all observers believe that ``name`` is dead."""
        found = [self.believes(observer, name) for observer in observers]
        return all(member is not None and member.state is State.DEAD for member in found)

    # -- driving --------------------------------------------------------------------------------------

    def form(self) -> float:
        """Starts all nodes and runs until they agree on a view of all; returns how long that took."""
        self.start()
        return self.wait_for(lambda: self.agree_on(self.names), FORMED_S, "the cluster forms")

    def wait_for(self, condition: Callable[[], object], timeout_s: float, what: str) -> float:
        """Runs until a condition holds, and returns how long that took; fails at the first violation."""
        began = self.scheduler.now
        violations = self.history.violations
        try:
            self.scheduler.run(lambda: violations or condition(), timeout_s=timeout_s, every_s=LOOK_S)
        except AssertionError as error:
            waited = f"after {timeout_s:g} simulated s it still does not hold: {what}"
            raise self.broken([*self.history.violations, waited, str(error)]) from None
        self.check(self.history.violations)
        return self.scheduler.now - began

    def run_for(self, seconds: float) -> None:
        """Runs for a time; fails if there are violations."""
        self.scheduler.run_for(seconds)
        self.check(self.history.violations)

    def kill(self, name: str) -> None:
        """Cuts the power of a node, which stays silent until it is restarted."""
        self.log.note(f"power off {name}")
        self.nodes[name].power_off()

    def restart(self, name: str) -> None:
        """Restores a node's power and starts the agents that are not running."""
        self.log.note(f"start {name}")
        self.nodes[name].start_all()

    def isolate(self, name: str, *, inbound: bool = True, outbound: bool = True) -> None:
        """Cuts one node off from all others, in one or both directions."""
        for other in self.names:
            if other != name:
                here, there = self.nodes[name].address, self.nodes[other].address
                if inbound:
                    self.wires.cut(there, here, both=False)
                if outbound:
                    self.wires.cut(here, there, both=False)

    def partition(self, one: Sequence[str], two: Sequence[str]) -> None:
        """Cuts all wires between two sides."""
        for name in one:
            for other in two:
                self.wires.cut(self.nodes[name].address, self.nodes[other].address)
