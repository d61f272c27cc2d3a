"""The faults of the engine's schedules: what each kind of step does to a world, and how it ends.

An **ambush** waits for a moment that chance would rarely hit, such as a commit under way, and strikes then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from tests.simulation.machine.wires import Quality
from tests.simulation.rainstorm.hydfs import StoreFaults
from tests.simulation.rainstorm.launcher import TaskProcess
from tests.simulation.rainstorm.membership import SERVICE
from tests.simulation.rainstorm.operators import Operators
from tests.simulation.rainstorm.schedule import AMBUSH_S, Schedule, Step
from tests.simulation.rainstorm.world import RECOVERING, World

T = TypeVar("T")

AMBUSH_STEP_S = 0.004


class Faults:
    """Strikes at a world until it is told to heal."""

    def __init__(self, world: World, operators: Operators, schedule: Schedule) -> None:
        self._world = world
        self._operators = operators
        self._over = False
        for step in schedule.steps:
            strike: Callable[[Step], None] = getattr(self, f"_do_{step.kind}")
            self._later(step.at_s, partial(strike, step), step)

    @classmethod
    def kinds(cls) -> list[str]:
        """Returns all kinds of faults."""
        return [name.removeprefix("_do_") for name in vars(cls) if name.startswith("_do_")]

    def heal(self) -> None:
        """Ends all faults."""
        self._over = True
        world = self._world
        world.store.faults = StoreFaults()
        world.store.cut.clear()
        world.views.isolated.clear()
        world.views.accused_until.clear()
        world.views.lag_s.clear()
        world.cluster.wires.quality = Quality()
        for name in world.names:
            self._restart(name, even_if_over=True)
        world.cluster.heal()

    # -- tools ----------------------------------------------------------------------------------------

    def _later(self, delay_s: float, action: Callable[[], None], why: object = None) -> None:
        def strike() -> None:
            if not self._over:
                if why is not None:
                    self._world.cluster.log.note(str(why))
                action()

        self._world.scheduler.after(delay_s, strike)

    def _ambush(self, moment: Callable[[], object], strike: Callable[[], None]) -> None:
        end = self._world.scheduler.now + AMBUSH_S

        def look() -> None:
            if moment():
                strike()
            elif self._world.scheduler.now < end:
                self._later(AMBUSH_STEP_S, look)

        look()

    def _name(self, step: Step) -> str:
        return _pick(self._world.names, step)

    def _crash(self, name: str, step: Step) -> None:
        """Kills an engine or takes the power of its whole machine; one of the nodes stays at least."""
        world = self._world
        if name not in world.up() or len(world.up()) < 2:
            return
        world.note_crash(name)
        if step.amount < 0.5:
            world.cluster.nodes[name].kill(SERVICE)
        else:
            world.cluster.nodes[name].power_off()
        self._later(step.duration_s, lambda: self._restart(name))

    def _restart(self, name: str, *, even_if_over: bool = False) -> None:
        node = self._world.cluster.nodes[name]
        if self._over and not even_if_over:
            return
        if not node.is_on:
            self._world.views.boots[name] += 1
            node.power_on()
        if not node.agents[SERVICE].is_running:
            node.start(SERVICE)

    def _pause(self, name: str, step: Step) -> None:
        world = self._world
        if name not in world.up() or len(world.up()) < 2:
            return
        world.cluster.nodes[name].pause()
        self._later(step.duration_s, world.cluster.nodes[name].resume)

    # -- tasks and launchers --------------------------------------------------------------------------

    def _do_kill_task(self, step: Step) -> None:
        tasks = self._world.tasks()
        if tasks:
            self._world.kill_task(*_pick(tasks, step))

    def _do_kill_spare(self, step: Step) -> None:
        used = [task for _, task in self._world.tasks()]
        spares = [task for task in self._world.processes() if task not in used]
        if spares:
            _pick(spares, step).kill()

    def _do_kill_task_with_ack(self, step: Step) -> None:
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

    def _do_pause_task(self, step: Step) -> None:
        """A task hangs: it neither reads its channels nor its commands."""
        tasks = self._world.tasks()
        if not tasks:
            return
        _, task = _pick(tasks, step)
        self._world.scheduler.pause(task.process)
        self._world.watch.hit("task hung")
        self._later(step.duration_s, partial(self._resume_task, task))

    def _resume_task(self, task: TaskProcess) -> None:
        if task.is_alive and task.process.paused:
            self._world.scheduler.resume(task.process)

    def _do_kill_launcher(self, step: Step) -> None:
        launcher = self._world.launchers[self._name(step)].current
        if launcher is not None:
            self._world.watch.hit("launcher killed")
            launcher.kill()

    # -- nodes ----------------------------------------------------------------------------------------

    def _do_crash_node(self, step: Step) -> None:
        self._crash(self._name(step), step)

    def _do_crash_leader(self, step: Step) -> None:
        self._crash(self._world.views.leader, step)

    def _do_crash_leader_in_commit(self, step: Step) -> None:
        self._ambush(
            lambda: any(m._pending[0] == "commit" for m in self._world.machines()),
            lambda: self._crash(self._world.views.leader, step),
        )

    def _do_crash_leader_before_publication(self, step: Step) -> None:
        self._ambush(
            lambda: any(m.state.unpublished for m in self._world.machines()),
            lambda: self._crash(self._world.views.leader, step),
        )

    def _do_crash_leader_after_deletion(self, step: Step) -> None:
        hits = self._world.watch.hits
        before = hits["segment file deleted"]
        self._ambush(
            lambda: hits["segment file deleted"] > before,
            lambda: self._crash(self._world.views.leader, step),
        )

    def _do_crash_sink_before_publication(self, step: Step) -> None:
        def homes() -> list[str]:
            found = [(m.state.placement, entry[1]) for m in self._world.machines() for entry in m.state.unpublished]
            return [placement[task] for placement, task in found if task in placement]

        self._ambush(homes, lambda: self._crash(homes()[0], step))

    def _do_fail_in_recovery(self, step: Step) -> None:
        def recovering() -> list[str]:
            busy = [m for m in self._world.machines() if m.phase in RECOVERING and m.state.generation > 1]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(recovering, lambda: self._crash(_pick(recovering(), step), step))

    def _do_fail_in_deployment(self, step: Step) -> None:
        def deploying() -> list[str]:
            busy = [m for m in self._world.machines() if m.phase == "deploying"]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(deploying, lambda: self._crash(_pick(deploying(), step), step))

    def _do_pause_node(self, step: Step) -> None:
        self._pause(self._name(step), step)

    def _do_pause_leader(self, step: Step) -> None:
        self._pause(self._world.views.leader, step)

    def _do_stop_agent(self, step: Step) -> None:
        """An orderly restart."""
        world, name = self._world, self._name(step)
        if name not in world.up() or len(world.up()) < 2:
            return
        agent = world.cluster.nodes[name].agents[SERVICE]
        agent.stop()
        world.watch.hit("agent stopped in order")

        def start() -> None:
            if not agent.is_running:
                self._restart(name)
            else:
                self._later(0.1, start)

        self._later(step.duration_s, start)

    def _do_jump_clock(self, step: Step) -> None:
        self._world.cluster.nodes[self._name(step)].set_clock((step.amount - 0.5) * 600.0)

    # -- network and view -----------------------------------------------------------------------------

    def _do_isolate(self, step: Step) -> None:
        world, name = self._world, self._name(step)
        others = [node.address for other, node in world.cluster.nodes.items() if other != name]
        for address in others:
            world.cluster.wires.cut(world.cluster.nodes[name].address, address)
        # The engine's connections break; whether membership's and the store's do as well is another matter.
        world.views.isolated[name] = step.amount < 0.7
        world.store.cut[name] = 0.2 < step.amount < 0.8

        def mend() -> None:
            for address in others:
                world.cluster.wires.heal(world.cluster.nodes[name].address, address)
            world.views.isolated.pop(name, None)
            world.store.cut.pop(name, None)

        self._later(step.duration_s, mend)

    def _do_cut_one_way(self, step: Step) -> None:
        wires, names = self._world.cluster.wires, self._world.names
        pairs = [(a, b) for a in names for b in names if a != b]
        one, other = (self._world.cluster.nodes[name].address for name in _pick(pairs, step))
        wires.cut(one, other, both=False)
        self._later(step.duration_s, lambda: wires.heal(one, other))

    def _do_accuse(self, step: Step) -> None:
        """A healthy node, often the leader, is declared down, and learns of it late."""
        views = self._world.views
        name = views.leader if step.amount < 0.5 else self._name(step)
        if name:
            views.accused_until[name] = self._world.scheduler.now + step.duration_s
            views.lag_s[name] = step.pick * 2.0

    def _do_slow_network(self, step: Step) -> None:
        wires = self._world.cluster.wires
        slowest = (0.005, 0.05, 0.3)[int(step.amount * 2.99)]
        wires.quality = Quality(latency_s_max=slowest)
        self._later(step.duration_s, lambda: setattr(wires, "quality", Quality()))

    # -- the store ------------------------------------------------------------------------------------

    def _do_cut_off_store(self, step: Step) -> None:
        cut, name = self._world.store.cut, self._name(step)
        cut[name] = True
        self._later(step.duration_s, lambda: cut.update({name: False}))

    def _store(self, step: Step, faults: StoreFaults) -> None:
        store = self._world.store
        store.faults = faults
        self._later(step.duration_s, lambda: setattr(store, "faults", StoreFaults()))

    def _do_slow_store(self, step: Step) -> None:
        slow = StoreFaults(delay_mean_s=0.02 * step.pick, slow=0.1 * step.amount, slow_s=8.0 * step.pick)
        self._store(step, slow)

    def _do_unsure_store(self, step: Step) -> None:
        self._store(step, StoreFaults(lost_answer=0.3 * step.amount, refused=0.2 * step.pick))

    def _do_full_store(self, step: Step) -> None:
        self._store(step, replace(StoreFaults(), full=step.amount))

    # -- clients and strangers ------------------------------------------------------------------------

    def _do_cancel(self, step: Step) -> None:
        self._operators.cancel(step.pick)

    def _do_abort_client(self, step: Step) -> None:
        """An operator's machine is switched off in the middle of whatever it asked for."""
        self._operators.abort()

    def _do_kill_by_client(self, step: Step) -> None:
        self._operators.kill_task(step.pick)

    def _do_strangers(self, step: Step) -> None:
        """Connections that say nothing, or nonsense, to an agent and to tasks."""
        self._operators.disturb(self._name(step), step.amount)

    def _do_full_log(self, step: Step) -> None:
        """The disk of a node takes nothing more: its tasks' words are lost, their work is not."""
        disk = self._world.cluster.nodes[self._name(step)].disk
        disk.capacity_bytes = 0
        self._later(step.duration_s, lambda: setattr(disk, "capacity_bytes", None))


def _pick(candidates: Sequence[T], step: Step) -> T:
    return candidates[int(step.pick * len(candidates)) % len(candidates)]
