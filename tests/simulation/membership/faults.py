"""The faults that only membership knows, beside those of every cluster.

A wrong hint, a port that answers "refused" for a node that lives, an orderly leave, a switch of detectors, a
rotation of gossip keys, a voter that is replaced, a neighbour that dies or hangs, strangers. Some wait for a
moment that chance would rarely hit (``_busy``, ``_suspecting``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.membership.client import MembershipClient
from agent.membership.settings import DetectorKind
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.faults import Faults
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.process import Process
from tests.simulation.membership import strangers
from tests.simulation.membership.cluster import MEMBERSHIP, NEIGHBOUR, MembershipCluster
from tests.simulation.schedule import Schedule, Step

# Kinds of fault beside those of ``schedule``, and how many nodes each names.
EXTRA = {
    "hint": 2,
    "refuse": 2,
    "leave": 1,
    "depart": 1,
    "switch": 1,
    "rotate": 1,
    "replace_voter": 2,
    "abort_order": 1,
    "neighbour_crash": 1,
    "neighbour_hang": 1,
    "strangers": 1,
    "crash_busy": 1,
    "pause_busy": 1,
    "pause_suspecting": 1,
}
# How long the faults of a schedule last.
FAULTS_S = 12.0
AMBUSH_S, AMBUSH_STEP_S = 3.0, 0.001
ORDER_S = 5.0
# The longest order: connecting, and two changes of the register with three seconds each.
ORDER_DEADLINE_S = 12.0
LEFT_S = 0.2
CUTS_OFF = ("isolate", "deafen", "silence", "partition")
KEY = "11" * 32


class MembershipFaults(Faults):
    """Faults that count what they strike."""

    cluster: MembershipCluster

    def __init__(self, cluster: MembershipCluster, schedule: Schedule) -> None:
        super().__init__(cluster, schedule, MEMBERSHIP)
        self.hits = cluster.history.hits
        cluster.history.is_touched = lambda name: self._within(self.touched_until.get(name))
        cluster.history.is_cut_off = lambda name: self._within(self.cut_off_until.get(name))
        self._members = cluster
        self._wiped: set[str] = set()
        self._orders = 0
        # Whether a second gossip key is in use, which every node must get in the end.
        self.rotated = False
        # Clients of orders, which end by themselves or are killed.
        self.clients: list[Process] = []

    # What is believed or decided because of a fault may outlive it by this much.
    grace_s = 12.0

    def _within(self, until: float | None) -> bool:
        return until is not None and self.scheduler.now <= until + self.grace_s

    def may_wipe(self, name: str) -> bool:
        """Lets a minority of the voters lose their disks, as many as the register bears."""
        voters = self.names[: self.schedule.voters]
        wiped = self._wiped | {name}
        # While one voter is replaced by another node, that one may be among them.
        if len(wiped) > (len(voters) - 1) // 2:
            return False
        self._wiped = wiped
        return True

    def apply(self, step: Step) -> None:
        """Counts what a step strikes, and begins it."""
        cluster = self._members
        running = cluster.running()
        busy = any(cluster.service(name).core._busy for name in step.names if name in running)
        if step.kind in CUTS_OFF and busy:
            self.hits["cut off with a register operation in flight"] += 1
        if step.kind in ("crash", "power_off") and step.names[0] in running:
            view = cluster.view(step.names[0])
            if view is not None and view.leader == step.names[0]:
                self.hits["leader crashed"] += 1
        if any(not cluster.service(name).core.majority for name in running):
            self.hits["no majority"] += 1
        super().apply(step)

    # -- hints and refusals ---------------------------------------------------------------------------

    def do_hint(self, step: Step) -> None:
        """Has an agent of a node say that it lost contact with another node."""
        name, other = step.names
        self.order(name, lambda client: client.hint(other))

    def do_refuse(self, step: Step) -> None:
        """Answers a node's datagrams to another one as if nobody listened there."""
        source, target = self.node(step.names[0]), self.node(step.names[1])
        port = self.cluster.wires.ports.get((source.address, source.config.me.membership_port))
        if port is not None:
            port.refused((target.address, target.config.me.membership_port))

    # -- orders ---------------------------------------------------------------------------------------

    def order(self, name: str, act: Callable[[MembershipClient], object]) -> Process:
        """Has an operator make a request to a node's agent; what comes of it is the schedule's luck."""
        self._orders += 1
        process = self.cluster.client(f"operator{self._orders}")
        node = self.node(name)
        target = Address(node.address, node.config.me.membership_port, name)
        began = self.scheduler.now

        def run() -> None:
            client = Client(auth.client_context(OPERATOR))
            try:
                act(MembershipClient(client, target, timeout_s=ORDER_S))
                self.hits["order carried out"] += 1
            except RainStormError as error:
                self.hits[f"order refused: {error.code}"] += 1
            finally:
                client.close()

        def check() -> None:
            late = any(thread.name == "order" for thread in process.threads)
            self._members.history.require(
                not late, f"M9: an order to {name} of {began:.3f} has no answer after {late_s:g} s"
            )

        late_s = ORDER_DEADLINE_S
        process.start("order", run)
        self.scheduler.after(late_s, check)
        self.clients.append(process)
        return process

    def do_leave(self, step: Step) -> None:
        """Has a node leave the cluster, and its agent killed a little later."""
        name = step.names[0]
        self.touch([name], step)
        self.order(name, lambda client: client.leave())
        agent = self.node(name).agents.get(MEMBERSHIP)

        def end() -> None:
            if not self.over and self.runs(name) and self.node(name).agents[MEMBERSHIP] is agent:
                self.do_crash(replace(step, kind="crash"))

        self.scheduler.after(LEFT_S, end)

    def do_depart(self, step: Step) -> None:
        """Has a node leave the cluster and join it again, without a restart."""
        name = step.names[0]
        self.touch([name], step)
        self.order(name, lambda client: client.leave())
        self.later(step, lambda: self.order(name, lambda client: client.join()))

    def do_switch(self, step: Step) -> None:
        """Has the whole cluster use the other detector."""
        name = step.names[0]
        monitor = self._members.monitor(name)
        heartbeat = monitor is not None and monitor.settings.detector is DetectorKind.HEARTBEAT
        other = DetectorKind.SWIM if heartbeat else DetectorKind.HEARTBEAT
        self.order(name, lambda client: client.switch(other.label, True))

    def do_rotate(self, step: Step) -> None:
        """Gives every node that answers a second gossip key and has it seal with that one.

        A node that does not answer hears nobody who does, until the operator has seen to it.
        """
        self.rotated = True
        self.touch(self.names, replace(step, duration_s=FAULTS_S), cut_off=True)
        for name in self.names:
            self.order(name, rotate)

    def do_replace_voter(self, step: Step) -> None:
        """Replaces a voter by another node, which may vote already."""
        name, new = step.names
        voters = self.names[: self.schedule.voters]
        if new not in voters and not self._wiped:
            old = voters[self.names.index(name) % len(voters)]
            self.order(name, lambda client: self._replace(client, old, new))

    def _replace(self, client: MembershipClient, old: str, new: str) -> None:
        client.replace_voter(old, new)
        self.hits["voter replaced"] += 1

    def do_abort_order(self, step: Step) -> None:
        """Has an operator give an order and be killed while it waits."""
        name = step.names[0]
        process = self.order(name, lambda client: client.events(1 << 40, 30.0))
        self.scheduler.after(self.cluster.random.uniform(0.0, 0.02), lambda: self.scheduler.kill(process))
        self.hits["order aborted"] += 1

    # -- neighbours and strangers ---------------------------------------------------------------------

    def do_neighbour_crash(self, step: Step) -> None:
        """Kills the agent that is attached to a node's membership agent."""
        node = self.node(step.names[0])
        agent = node.agents.get(NEIGHBOUR)
        if agent is None or not agent.is_running:
            return
        node.kill(NEIGHBOUR)
        self.hits["neighbour killed"] += 1
        self.later(step, lambda: node.start_all() if node.is_on and self.runs(node.name) else None)

    def do_neighbour_hang(self, step: Step) -> None:
        """Stops the attached agent: its connection stands, but it says nothing."""
        agent = self.node(step.names[0]).agents.get(NEIGHBOUR)
        if agent is not None and agent.is_running and not agent.process.paused:
            process = agent.process
            self.scheduler.pause(process)
            self.later(step, lambda: None if process.dead else self.scheduler.resume(process))

    def do_strangers(self, step: Step) -> None:
        """Has machines that do not belong to the cluster talk to a node."""
        process = self.cluster.client("stranger")
        node = self.node(step.names[0])
        impersonated = self.cluster.random.choice([name for name in self.names if name != node.name])
        here = self.cluster.machines["stranger"].address
        door = strangers.Door(
            node.name, node.address, node.config.me.membership_port, here, impersonated, step.duration_s
        )
        for visit in strangers.VISITS:
            process.start("visit", strangers.run, visit, door)
        self.hits["strangers came"] += 1

    # -- ambushes -------------------------------------------------------------------------------------

    def do_crash_busy(self, step: Step) -> None:
        """Kills an agent while it uses the register."""
        self._ambush(step, self.scheduler.now + AMBUSH_S)

    def do_pause_busy(self, step: Step) -> None:
        """Pauses a machine while its agent uses the register."""
        self._ambush(step, self.scheduler.now + AMBUSH_S)

    def do_pause_suspecting(self, step: Step) -> None:
        """Pauses a machine while its agent suspects somebody."""
        self._ambush(step, self.scheduler.now + AMBUSH_S)

    def _ambush(self, step: Step, until: float) -> None:
        name = step.names[0]
        if self.over or self.scheduler.now > until or name not in self._members.running():
            return
        if self.node(name).agents[MEMBERSHIP].process.paused:
            return
        core = self._members.service(name).core
        suspecting = step.kind == "pause_suspecting"
        if not (core.monitor.roster.suspicions if suspecting else core._busy):
            self.scheduler.after(AMBUSH_STEP_S, lambda: self._ambush(step, until))
        elif step.kind == "crash_busy":
            self.hits["crash with a register operation in flight"] += 1
            self.do_crash(step)
        else:
            what = "suspicion under way" if suspecting else "register operation in flight"
            self.hits[f"pause with a {what}"] += 1
            self.do_pause(step)


def rotate(client: MembershipClient) -> None:
    """Installs a second key on a node and has it seal with that one; nodes open with both."""
    before = client.keys("list")
    after = client.keys("install", key=KEY)
    fresh = [mark for mark in after if mark not in before]
    if fresh:
        threads.sleep(1.0)  # the others install it meanwhile
        client.keys("use", fingerprint=fresh[0])
