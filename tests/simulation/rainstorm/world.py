"""The stream engine on simulated machines: real agents, tasks and clients, with models of everything else.

The engine's limits are made small (splits, reads, epochs, bases), so that a job of a few hundred records
meets every situation of a large one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from agent.common.config import RainstormConfig
from agent.membership import attachment
from agent.membership.client import MARGIN_S
from agent.membership.follower import WATCH_S
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.host.core.events import AssignTask, CommandReceived, OutputPublished
from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.host.shell import host as host_shell
from agent.rainstorm.host.shell import writers
from agent.rainstorm.host.shell.supervisor import Key
from agent.rainstorm.io import storage
from agent.rainstorm.job import placement
from agent.rainstorm.leader.core import jobmachine, publication
from agent.rainstorm.leader.core.effects import JobEnded
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import LeaderCore
from agent.rainstorm.leader.shell import joblog
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.rainstorm.messages.commands import Trigger
from agent.rainstorm.service import Service
from agent.rainstorm.task.core import processor
from agent.rainstorm.task.operators import combine
from agent.rainstorm.task.sources import splitreader
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.process import Process
from tests.simulation.machine.schedule import Schedule
from tests.simulation.rainstorm.hydfs import Store, responder
from tests.simulation.rainstorm.launcher import Launchers, TaskProcess
from tests.simulation.rainstorm.membership import SERVICE, Views
from tests.simulation.rainstorm.watch import Watch

# A seed takes 25,000 steps; far more means that a loop spins.
STEPS_MAX = 600_000
# In one seed of three, threads sometimes get no processor.
STALL_S_MAX = 0.05
RECOVERING = ("logging", "deploying")
# The long poll of a follower holds a slot of its client for at most this long.
POLL_S = WATCH_S + MARGIN_S


class World:
    """Everything of one run."""

    def __init__(self, schedule: Schedule, *, end_to_end_only: bool = False) -> None:
        seed = schedule.seed
        rng = random.Random(f"{seed}:world")
        knobs = RainstormConfig(spare_tasks=rng.choice([0, 1, 1]), batch_bytes=rng.choice([64, 256]))
        self.cluster = Cluster(
            seed,
            schedule.size,
            {SERVICE: Service},
            settings={"rainstorm": knobs},
            quality=replace(schedule.quality, loss=0.0),
            steps_max=STEPS_MAX,
            stall_chance=rng.choice([0.0, 0.0, 0.001]),
            stall_s_max=STALL_S_MAX,
        )
        self.cluster.wires.buffer_bytes = rng.choice([300, 2000, 64 * 1024])
        self.cluster.slots_older_s = POLL_S
        self.scheduler = self.cluster.scheduler
        self.names = list(self.cluster.nodes)
        self.store = Store(self.scheduler, random.Random(f"{seed}:store"), self.names)
        self.watch = Watch(self.store, end_to_end_only=end_to_end_only)
        self.views = Views(self.cluster, random.Random(f"{seed}:views"))
        self.launchers: dict[str, Launchers] = {}
        # Task processes that were paused for good.
        self.hung: list[TaskProcess] = []
        for name, node in self.cluster.nodes.items():
            paths = [node.config.socket_path(path) for path in ("hydfs", "task/hydfs")]
            responder(self.store, self.cluster.wires, name, node.address, paths)
            self.launchers[name] = Launchers(node)

    def close(self) -> None:
        """Ends everything."""
        self.cluster.close()

    # -- inspecting the agents ------------------------------------------------------------------------

    def service(self, name: str) -> Service | None:
        """Returns the engine of a node, if it is running."""
        agent = self.cluster.nodes[name].agents.get(SERVICE)
        if agent is None or not agent.is_running or not agent.is_ready:
            return None
        assert isinstance(agent.service, Service)
        return agent.service

    def process(self, name: str) -> Process:
        """Returns the process of a node's engine."""
        return self.cluster.nodes[name].agents[SERVICE].process

    def up(self) -> list[str]:
        """Returns the nodes whose engine runs."""
        return [
            name for name in self.names if self.service(name) is not None and not self.process(name).paused
        ]

    def machines(self) -> list[JobMachine]:
        """Returns the unfinished jobs at the leader of the newest view."""
        leader = self.views.leader
        service = self.service(leader) if leader else None
        if service is None:
            return []
        jobs = service._dispatcher._core.jobs.values()
        return [machine for machine in jobs if machine.phase != "ended"]

    def tasks(self) -> list[tuple[Key, TaskProcess]]:
        """Returns the living processes of tasks, as the agents know them."""
        found = []
        for name in self.names:
            service = self.service(name)
            if service is not None:
                # Not with ``running()``: code outside of simulated threads cannot take its lock.
                running = {key: process.pid for key, process in service._host.supervisor._tasks.items()}
                known = self.launchers[name].tasks
                found += [(key, known[pid]) for key, pid in running.items() if pid and known[pid].is_alive]
        return found

    def processes(self) -> list[TaskProcess]:
        """Returns all living task processes, including spares."""
        return [task for name in self.names for task in self.launchers[name].alive()]

    def kill_task(self, key: Key, task: TaskProcess) -> None:
        """Kills the process of a task."""
        job, name = key
        for machine in self.machines():
            if machine.state.job == job:
                if machine._epoch is not None and name in machine._epoch.acks:
                    self.watch.hit("task killed between ack and commit")
                if machine.phase in RECOVERING and machine.state.generation > 1:
                    self.watch.hit("double failure during recovery")
        task.kill()

    def note_crash(self, name: str) -> None:
        """Notes the moment that a crash of the node called ``name`` hits now."""
        for machine in self.machines():
            if name in machine.state.placement.values():
                if machine.phase == "deploying":
                    self.watch.hit("node lost during deployment")
                if machine.phase in RECOVERING and machine.state.generation > 1:
                    self.watch.hit("double failure during recovery")
            if name == self.views.leader:
                if machine._pending[0] == "commit":
                    self.watch.hit("leader killed with a commit append in flight")
                if machine.state.unpublished:
                    self.watch.hit("leader killed between commit and publish")

    # -- clients --------------------------------------------------------------------------------------

    def operator(self, process: Process) -> RainstormClient:
        """Returns a client of the engine; call it in a thread of ``process``."""
        config = self.cluster.nodes[self.names[0]].config
        targets = [Address(peer.address, peer.rainstorm_port, peer.name) for peer in config.peers]
        return RainstormClient(Client(auth.client_context(config.tls)), targets)


@contextmanager
def small_limits(rng: random.Random) -> Iterator[None]:
    """Makes the engine's limits small while a simulation runs."""
    with ExitStack() as stack:

        def small(module: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(module, name, value))

        small(placement, "SPLIT_BYTES_MIN", rng.choice([50, 200, 1000]))
        small(splitreader, "READ_BYTES_MIN", rng.choice([8, 30, 100]))
        small(processor, "EPOCH_BYTES_MAX", rng.choice([100, 1000, 100_000]))
        small(processor, "BASE_KEYS_MIN", rng.choice([3, 10, 4096]))
        small(combine, "KEYS_MAX", rng.choice([3, 100_000]))
        small(publication, "UNPUBLISHED_BYTES_MAX", rng.choice([20, 1000, 1 << 26]))
        file_bytes = rng.choice([200, 2000, 1 << 26])
        small(host_shell, "SegmentWriter", partial(writers.SegmentWriter, file_bytes=file_bytes))
        small(writers, "pieces", partial(storage.pieces, size_max=rng.choice([64, 1 << 20])))
        # A short time limit makes outcomes unknown that the real one would wait for.
        small(joblog, "APPEND_TIMEOUT_S", rng.choice([0.3, 2.0, 30.0]))
        small(writers, "SEGMENT_TIMEOUT_S", rng.choice([0.3, 20.0]))
        small(writers, "PUBLISH_TIMEOUT_S", rng.choice([0.3, 20.0]))
        small(storage, "READ_TIMEOUT_S", rng.choice([0.5, 15.0]))
        small(publication, "PUBLISH_TIMEOUT_S", rng.choice([0.5, 10.0]))
        small(jobmachine, "EPOCH_TIMEOUT_S", rng.choice([0.5, 5.0]))
        small(jobmachine, "DEPLOY_TIMEOUT_S", rng.choice([2.0, 20.0]))
        # The model of membership looks at processes themselves.
        small(attachment, "RENEWAL_INTERVAL_S", 2.0)
        # Here a job may meet more faults in a row than any budget allows for.
        small(jobmachine, "FRUITLESS_RECOVERIES_MAX", 1_000_000)
        yield


@contextmanager
def observed(watch: Watch) -> Iterator[None]:
    """Shows ``watch`` the events and effects of cores, and checks their invariants after each event."""
    handle_host, handle_leader = HostCore.handle, LeaderCore.handle

    def host(self: HostCore, now: float, event: Any) -> list[Any]:
        term = self.term
        effects = handle_host(self, now, event)
        if isinstance(event, CommandReceived):
            command = event.command
            if command.term < term:
                watch.hit("zombie command refused")
                assert not effects, f"R6: {command} obeyed after term {term}"
            elif isinstance(command, Trigger):
                watch.triggered(command.job, command.generation, command.epoch)
        if isinstance(event, OutputPublished):
            watch.reported(event.job, event.epoch, event.task)
        for effect in effects:
            if isinstance(effect, AssignTask):
                if effect.in_place:
                    watch.hit("in-place reset")
                for file, offset, _ in effect.command.segments:
                    watch.restored(file, offset)
        self.check_invariants()
        return effects

    def leader(self: LeaderCore, now: float, event: Any) -> list[Any]:
        effects = handle_leader(self, now, event)
        for effect in effects:
            if isinstance(effect, JobEnded):
                watch.ended(effect.job, self.jobs[effect.job].state.outcome)
        self.check_invariants()
        return effects

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(HostCore, "handle", host))
        stack.enter_context(mock.patch.object(LeaderCore, "handle", leader))
        stack.enter_context(small_identities())
        yield


@contextmanager
def small_identities() -> Iterator[None]:
    """Gives the tasks of each generation a name as their certificate: real keys are slow and random."""
    numbers = itertools.count(1)
    made = (lambda job: f"{job}/{next(numbers)}".encode(),)
    with mock.patch.object(Dispatcher.__init__, "__defaults__", made):
        yield
