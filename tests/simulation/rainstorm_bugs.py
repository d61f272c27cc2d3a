"""Bugs planted on purpose: each must be found by the checks, or the checks are worth nothing.

A bug is a context in which the simulation runs with a part broken. Where two rules guard the same thing, both
are broken and only what comes out is looked at. Some bugs get the faults that can show them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.leader.core.effects import Effect, Tell
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import LeaderCore
from agent.rainstorm.leader.core.publication import Order, Publication
from agent.rainstorm.messages import commands
from agent.rainstorm.messages.reports import Acknowledged
from agent.rainstorm.task.core.processor import Restore, TaskCore
from agent.rainstorm.task.state.keyed import KeyedState
from tests.simulation.rainstorm_node import Parts


@dataclass(frozen=True, slots=True)
class Bug:
    """A broken part: cores to use instead of the real ones, or methods to replace."""

    name: str
    parts: Parts
    patches: tuple[tuple[type, str, Callable[..., Any]], ...] = ()
    # Some rules are kept twice over: then only the output of a run with both broken tells.
    end_to_end_only: bool = False
    faults: tuple[str, ...] | None = None
    # Needs a hundred seeds or more: left to `make simulate-power`.
    rare: bool = False

    @contextmanager
    def planted(self) -> Iterator[Parts]:
        """Runs with the bug in place."""
        for owner, name, _ in self.patches:
            assert hasattr(owner, name), f"{owner.__name__}.{name} does not exist any more"
        patchers = [mock.patch.object(owner, name, method) for owner, name, method in self.patches]
        for patcher in patchers:
            patcher.start()
        try:
            yield self.parts
        finally:
            for patcher in patchers:
                patcher.stop()


class NoBlocking(TaskCore):
    """Takes from channels that have delivered their barrier."""

    def blocked(self, channel: str) -> bool:
        return False


class ForgetsToFlush(TaskCore):
    """Believes after a reset that what it flushed before is safe."""

    def reset(self, restore: Restore) -> None:
        super().reset(replace(restore, done=restore.done or self._flushed))


class ForgetsPositions(TaskCore):
    """Begins its splits anew after a reset."""

    def reset(self, restore: Restore) -> None:
        super().reset(replace(restore, positions={}))


class ObeysOldTerms(HostCore):
    """Does what a deposed leader says."""

    def _command(self, command: commands.Command) -> list[Any]:
        self.term = 0
        return super()._command(command)


class StartsAgain(HostCore):
    """Obeys a start command that comes twice."""

    def _command(self, command: commands.Command) -> list[Any]:
        for job in self.jobs.values():
            job.started = False
        return super()._command(command)


def _forget_undo(self: KeyedState, epoch: int) -> None:
    self._open = {}
    self._undo.clear()


_new_generation = JobMachine._new_generation


def _reuse_epochs(self: JobMachine, now: float, cause: str) -> Any:
    self.state.epoch_max = self.state.epoch
    return _new_generation(self, now, cause)


_acknowledged = JobMachine.acknowledged


def _publish_early(self: JobMachine, now: float, report: Acknowledged) -> list[Effect]:
    effects = _acknowledged(self, now, report)
    epoch = self._epoch
    if epoch is not None and epoch.committing:
        for task, found in epoch.acks.items():
            if found.sink:
                where, sink = self._address(), self.state.sink
                command = commands.Publish(*where, epoch.number, task, sink, found.sink)
                effects.append(Tell(self.state.placement[task], command))
    return effects


_deployment = JobMachine._deployment


def _always_in_place(self: JobMachine, node: str) -> commands.Deploy:
    deployment = _deployment(self, node)
    tasks = {
        task: replace(start, in_place=task not in self._fresh) for task, start in deployment.tasks.items()
    }
    return replace(deployment, tasks=tasks)


def _publish_all(self: Publication, now: float, nodes: Sequence[str]) -> list[Order]:
    # What the engine did before the simulator was there: later epochs without waiting for earlier ones.
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


def _say_nothing(self: LeaderCore, now: float, nodes: Any) -> list[Any]:
    return list(self._renew_nodes(now))


_counter = itertools.count(1)

BUGS = (
    Bug("no alignment blocking", Parts(task=NoBlocking), faults=("kill_task",)),
    Bug("rollback forgets undo", Parts(), ((KeyedState, "roll_back", _forget_undo),)),
    Bug(
        "leader reuses epoch numbers after a rollback",
        Parts(),
        ((JobMachine, "_new_generation", _reuse_epochs),),
    ),
    Bug("publish before commit", Parts(), ((JobMachine, "acknowledged", _publish_early),)),
    Bug("flush forgotten after a reset", Parts(task=ForgetsToFlush)),
    Bug("positions not restored", Parts(task=ForgetsPositions)),
    Bug(
        "in place where the task was not, nodes keep everything",
        Parts(),
        ((JobMachine, "_deployment", _always_in_place), (LeaderCore, "_keep", _keep_everything)),
        end_to_end_only=True,
        faults=("isolate", "pause_node", "pause_leader", "crash_node"),
        rare=True,
    ),
    Bug(
        "publication with a new sequence each time",
        Parts(publication_sequence=lambda wanted, number: next(_counter)),
    ),
    Bug("host obeys old terms", Parts(host=ObeysOldTerms)),
    Bug("start obeyed twice", Parts(host=StartsAgain), faults=("bad_network", "kill_task")),
    Bug("publication out of order", Parts(), ((Publication, "next", _publish_all),), rare=True),
    Bug("a node that returns is not told what to stop", Parts(), ((LeaderCore, "_readmit", _say_nothing),)),
)
