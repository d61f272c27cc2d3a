"""Rules of the stream engine's cores, each broken on purpose: the checks must find every one.

A bug replaces attributes of the real classes while the seeds run. If two rules guard the same thing, both
are broken and only the output is checked. Some bugs get only the faults that can show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.leader.core.effects import Effect, Tell
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import LeaderCore
from agent.rainstorm.leader.core.publication import Order, Publication
from agent.rainstorm.messages import commands
from agent.rainstorm.messages.reports import Acknowledged
from agent.rainstorm.task.core.processor import Restore, TaskCore
from agent.rainstorm.task.state.keyed import KeyedState
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.rainstorm import scenario

RAINSTORM = Subject("rainstorm", lambda seed, kinds: scenario.run(scenario.schedule_of(seed, kinds)))
# Only the output is checked.
OUTPUT = Subject(
    "rainstorm",
    lambda seed, kinds: scenario.run(scenario.schedule_of(seed, kinds), end_to_end_only=True),
)


def _forget_to_flush(self: TaskCore, restore: Restore) -> None:
    _reset(self, replace(restore, done=restore.done or self._flushed))


def _forget_positions(self: TaskCore, restore: Restore) -> None:
    _reset(self, replace(restore, positions={}))


def _obey_old_terms(self: HostCore, command: commands.Command) -> list[Any]:
    self.term = 0
    return list(_command(self, command))


def _start_again(self: HostCore, command: commands.Command) -> list[Any]:
    for job in self.jobs.values():
        job.started = False
    return list(_command(self, command))


def _forget_undo(self: KeyedState, epoch: int) -> None:
    self._open = {}
    self._undo.clear()


def _reuse_epochs(self: JobMachine, now: float, cause: str) -> Any:
    self.state.epoch_max = self.state.epoch
    return _new_generation(self, now, cause)


def _publish_early(self: JobMachine, now: float, report: Acknowledged) -> list[Effect]:
    effects = _acknowledged(self, now, report)
    epoch = self._epoch
    if epoch is not None and epoch.committing:
        for task, found in epoch.acks.items():
            if found.sink:
                command = commands.Publish(*self._address(), epoch.number, task, self.state.sink, found.sink)
                effects.append(Tell(self.state.placement[task], command))
    return effects


def _always_in_place(self: JobMachine, node: str) -> commands.Deploy:
    deployment = _deployment(self, node)
    tasks = {
        task: replace(start, in_place=task not in self._fresh) for task, start in deployment.tasks.items()
    }
    return replace(deployment, tasks=tasks)


def _publish_all(self: Publication, now: float, nodes: Sequence[str]) -> list[Order]:
    # An early version of the engine did this: it published later epochs without waiting for earlier ones.
    given: list[Order] = []
    for epoch, task, references in reversed(self._state.unpublished):
        if (epoch, task) not in self._given and nodes:
            node = self._state.placement.get(task, "")
            node = node if node in nodes else nodes[0]
            self._given[epoch, task] = (node, now)
            given.append(Order(node, epoch, task, references))
    return given


def _keep_everything(self: LeaderCore, node: str) -> Tell:
    jobs = {job: 0 for job, machine in self.jobs.items() if machine.phase != "ended"}
    return Tell(node, commands.Keep(self.term, jobs))


def _readmit_silently(self: LeaderCore, now: float, nodes: Any) -> list[Any]:
    return list(self._renew_nodes(now))


_reset = TaskCore.reset
_command = HostCore._command
_new_generation = JobMachine._new_generation
_acknowledged = JobMachine.acknowledged
_deployment = JobMachine._deployment


BUGS = (
    PlantedBug(
        "no alignment blocking",
        "records behind a barrier belong to the next epoch",
        RAINSTORM,
        ((TaskCore, "blocked", lambda self, channel: False),),
        ("kill_task",),
    ),
    PlantedBug(
        "rollback forgets undo",
        "a rollback undoes what was not committed",
        RAINSTORM,
        ((KeyedState, "roll_back", _forget_undo),),
    ),
    PlantedBug(
        "leader reuses epoch numbers after a rollback",
        "an epoch number belongs to one generation",
        RAINSTORM,
        ((JobMachine, "_new_generation", _reuse_epochs),),
    ),
    PlantedBug(
        "publish before commit",
        "only what is committed is published",
        RAINSTORM,
        ((JobMachine, "acknowledged", _publish_early),),
    ),
    PlantedBug(
        "flush forgotten after a reset",
        "a reset forgets what was flushed after the commit",
        RAINSTORM,
        ((TaskCore, "reset", _forget_to_flush),),
    ),
    PlantedBug(
        "positions not restored",
        "a source continues at the committed position",
        RAINSTORM,
        ((TaskCore, "reset", _forget_positions),),
    ),
    PlantedBug(
        "in place where the task was not, nodes keep everything",
        "a task in place has the committed state",
        OUTPUT,
        ((JobMachine, "_deployment", _always_in_place), (LeaderCore, "_keep", _keep_everything)),
        ("leave", "pause", "pause_leader", "power"),
    ),
    PlantedBug(
        "host obeys old terms",
        "commands of a deposed leader are ignored",
        RAINSTORM,
        ((HostCore, "_command", _obey_old_terms),),
    ),
    PlantedBug(
        "start obeyed twice",
        "a repeated command is obeyed once",
        RAINSTORM,
        ((HostCore, "_command", _start_again),),
        ("break_at_start", "slow_wires", "kill_task"),
    ),
    PlantedBug(
        "publication out of order",
        "epochs of a sink are published in order",
        RAINSTORM,
        ((Publication, "next", _publish_all),),
        ("cut_off_before_publication",),
    ),
    PlantedBug(
        "a node that returns is not told what to stop",
        "nothing of a job runs once it has ended",
        RAINSTORM,
        ((LeaderCore, "_readmit", _readmit_silently),),
    ),
)
