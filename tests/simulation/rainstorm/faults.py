"""The faults that only the engine's schedules have, besides those of any cluster (``machine.faults``).

An **ambush** waits for a moment that chance would rarely hit, such as a commit in progress, and strikes then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agent.wire.codec.framing import Frame, encode
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.schedule import Step
from tests.simulation.rainstorm.hydfs import StoreFaults
from tests.simulation.rainstorm.launcher import TaskProcess
from tests.simulation.rainstorm.membership import SERVICE
from tests.simulation.rainstorm.operators import Operators
from tests.simulation.rainstorm.world import RECOVERING, World

T = TypeVar("T")

SNAPSHOT = {"generation": 1, "epoch": 1, "state_bytes": 0, "base": False, "positions": {}, "done": False}
WRONG: tuple[dict[str, Any], ...] = (
    {"records": "x"},
    {"epoch": []},
    {"epoch": -1},
    {"positions": {"x": float("nan")}},
    {"state_bytes": 1 << 62},
    {"t": "outcome"},
    {"t": [1]},
)
POISON = tuple(
    encode(Frame({"t": "snapshot", **SNAPSHOT, "records": 1, "bytes": 1, **wrong})) for wrong in WRONG
)
AMBUSH_S = 1.5
AMBUSH_STEP_S = 0.004
LAG_S_MAX = 2.0
# By then the command to start has been obeyed or answered.
START_S = 0.005

# The kinds of fault, and the number of nodes that their steps name.
EXTRA: dict[str, int | str] = {
    "kill_task": 0,
    "kill_spare": 1,
    "kill_task_with_ack": 0,
    "pause_task": 0,
    "hang_task": 0,
    "poison": 0,
    "kill_launcher": 1,
    "crash_leader": 0,
    "crash_leader_in_commit": 0,
    "crash_leader_before_publication": 0,
    "crash_leader_after_deletion": 0,
    "crash_sink_before_publication": 0,
    "fail_in_recovery": 0,
    "fail_in_deployment": 0,
    "pause_leader": 0,
    "leave": 1,
    "break": 1,
    "accuse": 1,
    "cut_off_store": 1,
    "slow_store": 0,
    "unsure_store": 0,
    "full_store": 0,
    "cancel": 0,
    "abort_client": 0,
    "kill_by_client": 1,
    "strangers": 1,
}
# Kinds that aim at a moment which chance meets too rarely; used only in schedules that name them.
AIMED: dict[str, int | str] = {"break_at_start": 0, "cut_off_before_publication": 0}


class EngineFaults:
    """Injects faults into a world until it is told to heal."""

    def __init__(self, world: World, operators: Operators, steps: Sequence[Step]) -> None:
        self._world = world
        self._operators = operators
        others: dict[str, Callable[[Step], None]] = {
            kind: getattr(self, f"_{kind}") for kind in {**EXTRA, **AIMED}
        }
        self.common = Faults(world.cluster, steps, others)

    def end(self) -> None:
        """Ends all faults."""
        world = self._world
        world.store.faults = StoreFaults()
        world.store.cut.clear()
        world.views.isolated.clear()
        world.views.accused_until.clear()
        world.views.lag_s.clear()
        self.common.end()
        for task in world.hung:
            if task.is_alive:
                world.scheduler.pause(task.process)  # the engine must replace a task that stalls

    # -- tools ----------------------------------------------------------------------------------------

    def _ambush(self, moment: Callable[[], object], strike: Callable[[], None]) -> None:
        end = self._world.scheduler.now + AMBUSH_S

        def look() -> None:
            if self.common.is_over:
                return
            if moment():
                strike()
            elif self._world.scheduler.now < end:
                self._world.scheduler.after(AMBUSH_STEP_S, look)

        look()

    def _crash(self, name: str, step: Step) -> None:
        """Kills an engine or cuts the power of its whole machine."""
        world = self._world
        if name not in world.up():
            return
        world.note_crash(name)
        node = world.cluster.nodes[name]
        if _second(step) < 0.5:
            self.common.cut_power([node], step)
            return
        node.kill(SERVICE)
        self.common.later(step, lambda: self._start(name))

    def _start(self, name: str) -> None:
        node = self._world.cluster.nodes[name]
        if node.is_on and not node.agents[SERVICE].is_running:
            node.start(SERVICE)

    # -- tasks and launchers --------------------------------------------------------------------------

    def _kill_task(self, step: Step) -> None:
        tasks = self._world.tasks()
        if tasks:
            self._world.kill_task(*_pick(tasks, step))

    def _kill_spare(self, step: Step) -> None:
        used = [task for _, task in self._world.tasks()]
        spares = [task for task in self._world.launchers[step.nodes[0]].alive() if task not in used]
        if spares:
            _pick(spares, step).kill()

    def _kill_task_with_ack(self, step: Step) -> None:
        world = self._world

        def acked() -> list[str]:
            return [task for m in world.machines() if m._epoch is not None for task in m._epoch.acks]

        def strike() -> None:
            wanted = acked()
            for key, task in world.tasks():
                if key[1] in wanted:
                    world.kill_task(key, task)
                    return

        self._ambush(acked, strike)

    def _pause_task(self, step: Step) -> None:
        """A task stands still for a while: it neither reads its channels nor its commands."""
        task = self._hang(step)
        if task is not None:
            self.common.later(step, lambda: self._resume(task))

    def _hang_task(self, step: Step) -> None:
        """A task stands still for good."""
        task = self._hang(step)
        if task is not None:
            self._world.hung.append(task)

    def _poison(self, step: Step) -> None:
        """User code has taken over a task, and sends the agent messages that no task sends."""
        tasks = self._world.tasks()
        if tasks:
            _, task = _pick(tasks, step)
            task.say(POISON[int(_second(step) * len(POISON))])
            self._world.watch.hit("task poisoned")

    def _hang(self, step: Step) -> TaskProcess | None:
        tasks = self._world.tasks()
        if not tasks:
            return None
        _, task = _pick(tasks, step)
        self._world.scheduler.pause(task.process)
        self._world.watch.hit("task hung")
        return task

    def _resume(self, task: TaskProcess) -> None:
        if task.is_alive and task.process.paused:
            self._world.scheduler.resume(task.process)

    def _kill_launcher(self, step: Step) -> None:
        launcher = self._world.launchers[step.nodes[0]].current
        if launcher is not None:
            self._world.watch.hit("launcher killed")
            launcher.kill()

    # -- nodes ----------------------------------------------------------------------------------------

    def _crash_leader(self, step: Step) -> None:
        self._crash(self._world.views.leader, step)

    def _crash_leader_in_commit(self, step: Step) -> None:
        self._ambush(
            lambda: any(m._pending[0] == "commit" for m in self._world.machines()),
            lambda: self._crash(self._world.views.leader, step),
        )

    def _crash_leader_before_publication(self, step: Step) -> None:
        self._ambush(
            lambda: any(m.state.unpublished for m in self._world.machines()),
            lambda: self._crash(self._world.views.leader, step),
        )

    def _crash_leader_after_deletion(self, step: Step) -> None:
        hits = self._world.watch.hits
        before = hits["segment file deleted"]
        self._ambush(
            lambda: hits["segment file deleted"] > before,
            lambda: self._crash(self._world.views.leader, step),
        )

    def _crash_sink_before_publication(self, step: Step) -> None:
        self._ambush(self._publishers, lambda: self._crash(self._publishers()[0], step))

    def _publishers(self) -> list[str]:
        """Returns the nodes that have output to publish, of the oldest epoch first."""
        machines = self._world.machines()
        found = [(m.state.placement, entry[1]) for m in machines for entry in m.state.unpublished]
        return [placement[task] for placement, task in found if task in placement]

    def _fail_in_recovery(self, step: Step) -> None:
        def recovering() -> list[str]:
            busy = [m for m in self._world.machines() if m.phase in RECOVERING and m.state.generation > 1]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(recovering, lambda: self._crash(_pick(recovering(), step), step))

    def _fail_in_deployment(self, step: Step) -> None:
        def deploying() -> list[str]:
            busy = [m for m in self._world.machines() if m.phase == "deploying"]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(deploying, lambda: self._crash(_pick(deploying(), step), step))

    def _pause_leader(self, step: Step) -> None:
        leader = self._world.views.leader
        if leader in self._world.up():
            node = self._world.cluster.nodes[leader]
            node.pause()
            self.common.later(step, node.resume)

    # -- network and view -----------------------------------------------------------------------------

    def _leave(self, step: Step) -> None:
        """A node leaves the network; its membership and its store may or may not leave with it."""
        world, [name] = self._world, step.nodes
        own = world.cluster.nodes[name].address
        others = [node.address for other, node in world.cluster.nodes.items() if other != name]
        for other in others:
            world.cluster.wires.cut(own, other)
        world.views.isolated[name] = _second(step) < 0.7
        world.store.cut[name] = 0.2 < step.amount < 0.8

        def come_back() -> None:
            for other in others:
                world.cluster.wires.heal(own, other)
            world.views.isolated.pop(name, None)
            world.store.cut.pop(name, None)

        self.common.later(step, come_back)

    def _break(self, step: Step) -> None:
        """All connections of a node's processes end, as if a device between the nodes had forgotten them."""
        for process in self._world.cluster.nodes[step.nodes[0]].processes:
            process.seam.network.break_streams()

    def _break_at_start(self, step: Step) -> None:
        """All connections end just after a generation is told to start, so that some nodes are told twice."""
        begun = {machine.state.generation for machine in self._world.machines() if machine.phase == "running"}

        def starts() -> bool:
            return any(
                machine.phase == "running" and machine.state.generation not in begun
                for machine in self._world.machines()
            )

        def strike() -> None:
            for node in self._world.cluster.nodes.values():
                for process in node.processes:
                    process.seam.network.break_streams()

        later_s = START_S * step.amount
        self._ambush(starts, lambda: self._world.scheduler.after(later_s, strike))

    def _accuse(self, step: Step) -> None:
        """A healthy node, often the leader, is declared down, and learns of it late."""
        views = self._world.views
        name = (_second(step) < 0.5 and views.leader) or step.nodes[0]
        views.accused_until[name] = self._world.scheduler.now + step.duration_s
        views.lag_s[name] = step.amount * LAG_S_MAX

    # -- the store ------------------------------------------------------------------------------------

    def _cut_off_store(self, step: Step) -> None:
        self._cut_off(step.nodes[0], step)

    def _cut_off_before_publication(self, step: Step) -> None:
        self._ambush(self._publishers, lambda: self._cut_off(self._publishers()[0], step))

    def _cut_off(self, name: str, step: Step) -> None:
        cut = self._world.store.cut
        cut[name] = True
        self.common.later(step, lambda: cut.update({name: False}))

    def _slow_store(self, step: Step) -> None:
        how = _second(step)
        self._store(step, StoreFaults(delay_mean_s=0.02 * how, slow=0.1 * step.amount, slow_s=8.0 * how))

    def _unsure_store(self, step: Step) -> None:
        self._store(step, StoreFaults(lost_answer=0.2 + 0.6 * step.amount, refused=0.2 * _second(step)))

    def _full_store(self, step: Step) -> None:
        self._store(step, StoreFaults(full=step.amount))

    def _store(self, step: Step, faults: StoreFaults) -> None:
        store = self._world.store
        store.faults = faults
        self.common.later(step, lambda: setattr(store, "faults", StoreFaults()))

    # -- clients and strangers ------------------------------------------------------------------------

    def _cancel(self, step: Step) -> None:
        self._operators.cancel(step.amount)

    def _abort_client(self, step: Step) -> None:
        """An operator's process is killed in the middle of whatever it asked for."""
        self._operators.abort()

    def _kill_by_client(self, step: Step) -> None:
        self._operators.kill_task(step.nodes[0])

    def _strangers(self, step: Step) -> None:
        """Silent connections, and connections with invalid bytes, to an agent and to tasks."""
        self._operators.disturb(step.nodes[0], step.amount)


def _pick(candidates: Sequence[T], step: Step) -> T:
    return candidates[int(step.amount * len(candidates)) % len(candidates)]


def _second(step: Step) -> float:
    """Returns another number between 0 and 1 that depends only on the step."""
    return step.amount * 1000 % 10 / 10
