"""A simulated stream engine: nodes, HyDFS, the view, jobs; a seed chooses sizes and limits.

The engine's limits are made small (splits, reads, epochs, bases), so that a job of a few hundred records goes
through everything that a large one meets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

from agent.rainstorm.io import storage
from agent.rainstorm.job import placement as locality
from agent.rainstorm.leader.core import jobmachine, publication
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.task.core import processor
from agent.rainstorm.task.operators import combine
from agent.rainstorm.task.sources import splitreader
from tests.simulation import rainstorm_dispatcher, rainstorm_node
from tests.simulation.rainstorm_jobs import KINDS, generate, make_state
from tests.simulation.rainstorm_kernel import run_thread
from tests.simulation.rainstorm_node import Agent, Parts, Sizes
from tests.simulation.rainstorm_store import Store
from tests.simulation.rainstorm_task import TaskProcess
from tests.simulation.rainstorm_views import Views
from tests.simulation.rainstorm_watch import Watch
from tests.simulation.world import Node, World

POLL_S = 0.25


@contextmanager
def small_limits(rng: random.Random) -> Iterator[None]:
    """Makes the engine's limits small while a simulation runs."""
    with ExitStack() as stack:

        def small(module: object, name: str, value: float) -> None:
            stack.enter_context(mock.patch.object(module, name, value))

        small(locality, "SPLIT_BYTES_MIN", rng.choice([50, 200, 1000]))
        small(splitreader, "READ_BYTES_MIN", rng.choice([8, 30, 100]))
        small(processor, "EPOCH_BYTES_MAX", rng.choice([100, 1000, 100_000]))
        small(processor, "BASE_KEYS_MIN", rng.choice([3, 10, 4096]))
        small(combine, "KEYS_MAX", rng.choice([3, 100_000]))
        small(publication, "UNPUBLISHED_BYTES_MAX", rng.choice([20, 1000, 1 << 26]))
        # Short patience makes outcomes unknown that the real one would wait for.
        small(rainstorm_dispatcher, "APPEND_TIMEOUT_S", rng.choice([0.3, 2.0, 30.0]))
        small(rainstorm_node, "SEGMENT_TIMEOUT_S", rng.choice([0.3, 20.0]))
        small(rainstorm_node, "PUBLISH_TIMEOUT_S", rng.choice([0.3, 20.0]))
        small(storage, "READ_TIMEOUT_S", rng.choice([0.5, 15.0]))
        small(publication, "PUBLISH_TIMEOUT_S", rng.choice([0.5, 10.0]))
        small(jobmachine, "EPOCH_TIMEOUT_S", rng.choice([0.5, 5.0]))
        small(jobmachine, "DEPLOY_TIMEOUT_S", rng.choice([2.0, 20.0]))
        # Here a job may meet more faults in a row than any budget allows for.
        small(jobmachine, "FRUITLESS_RECOVERIES_MAX", 1_000_000)
        yield


class Cluster:
    """Everything of one run."""

    def __init__(
        self,
        seed: int | str,
        parts: Parts | None = None,
        *,
        kinds: tuple[str, ...] = KINDS,
        end_to_end_only: bool = False,
    ) -> None:
        self.world = World(seed)
        rng = self.world.random("cluster")
        self.store = Store(self.world)
        self.watch = Watch(self.store, end_to_end_only=end_to_end_only)
        self.names = [f"n{number + 1}" for number in range(rng.choice([3, 4, 5]))]
        sizes = Sizes(rng.choice([0, 1, 2]), rng.choice([64, 1 << 20]), rng.choice([200, 2000, 1 << 26]))
        boots: dict[str, int] = {}

        def make(node: Node) -> Agent:
            boots[node.name] = boots.get(node.name, 0) + 1
            return Agent(node, self.store, self.watch, parts or Parts(), sizes)

        for name in self.names:
            self.world.add(name, make)
        self.views = Views(self.world, lambda name, view: self.agent(name).set_view(view))
        self._submit(rng, kinds)
        self.world.after(POLL_S, self._poll)

    def agent(self, name: str) -> Agent:
        """Returns the agent of a node that is up."""
        host = self.world.nodes[name].host
        assert isinstance(host, Agent)
        return host

    def leader(self) -> Agent | None:
        """Returns the agent of the node that the view names, when it is up."""
        return self.agent(self.views.leader) if self.world.nodes[self.views.leader].up else None

    def machines(self) -> list[JobMachine]:
        """Returns the unfinished jobs at the leader."""
        leader = self.leader()
        return (
            [] if leader is None else [m for m in leader.dispatcher.core.jobs.values() if m.phase != "ended"]
        )

    def tasks(self) -> list[TaskProcess]:
        """Returns the assigned task processes of all nodes that are up."""
        agents = [self.agent(name) for name in self.names if self.world.nodes[name].up]
        return [process for agent in agents for process in agent.supervisor.tasks.values()]

    def over(self) -> bool:
        """Tells whether the logs of all jobs say that they are over."""
        return all(job.outcome for job in self.watch.jobs.values())

    def crash(self, name: str, *, machine: bool) -> None:
        """Kills a node: the whole machine, which falls silent, or its agent, whose tasks end with it."""
        self._note_crash(name)
        agent = self.agent(name)
        if not machine:
            for process in self.watch.processes:
                if process.agent is agent:
                    process.kill()
        self.world.crash(name)

    def restart(self, name: str, *, machine: bool) -> None:
        """Starts a node again; a machine comes back as a new boot."""
        if machine:
            self.views.boots[name] += 1
        self.world.restart(name)
        view = self.views.view()
        self.world.after(0.02, lambda: self._tell_again(name, view.version))

    def kill_task(self, process: TaskProcess) -> None:
        """Kills one task process."""
        assert process.key is not None
        job, task = process.key
        leader = self.leader()
        machine = None if leader is None else leader.dispatcher.core.jobs.get(job)
        if machine is not None:
            epoch = machine._epoch
            if epoch is not None and task in epoch.acks:
                self.watch.hit("task killed between ack and commit")
            if machine.phase in ("logging", "deploying") and machine.state.generation > 1:
                self.watch.hit("double failure during recovery")
        self.world.trace("kill", job, task)
        process.kill()

    def _note_crash(self, name: str) -> None:
        for machine in self.machines():
            if name in machine.state.placement.values():
                if machine.phase == "deploying":
                    self.watch.hit("node lost during deployment")
                if machine.phase in ("logging", "deploying") and machine.state.generation > 1:
                    self.watch.hit("double failure during recovery")
            if name == self.views.leader:
                if machine._pending[0] == "commit":
                    self.watch.hit("leader killed with a commit append in flight")
                if machine.state.unpublished:
                    self.watch.hit("leader killed between commit and publish")

    def _tell_again(self, name: str, version: int) -> None:
        # A restarted agent asks its membership agent for the view at once.
        node = self.world.nodes[name]
        if node.up and not self.views.isolated.get(name):
            node.call(lambda: self.agent(name).set_view(self.views.view()))

    def _submit(self, rng: random.Random, kinds: tuple[str, ...]) -> None:
        first = self.views.leader
        self.world.wait_for(lambda: self.agent(first).dispatcher.core.leading, 5.0, f"{first} leads")
        for number in range(rng.choice([1, 1, 2])):
            workload = generate(rng, rng.choice(kinds), f"in{number}", f"out{number}", rng.randint(0, 240))
            job = f"j-{number}"
            state = make_state(self.store, workload, job, self.names, rng.choice([64, 256]))
            self.watch.add(job, workload)
            dispatcher = self.agent(first).dispatcher
            run_thread(dispatcher.submit(state), lambda: True)
            self.world.wait_for(partial(dispatcher.core.jobs.__contains__, job), 5.0, f"{job} is submitted")

    def _poll(self) -> None:
        self.watch.poll()
        self.world.after(POLL_S, self._poll)
