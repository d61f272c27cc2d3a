"""The whole system on simulated machines: real membership, stores and engines, and a client that reads.

Only the launchers are models. A seed costs twenty times as much as one with models, so there are few. They
check what a user sees: the input is put, the job runs, every reader sees a prefix of the right result, and
the result is complete at the end.
"""

from __future__ import annotations

import io
import random
from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

from agent.common.config import HydfsConfig, RainstormConfig
from agent.common.errors import AlreadyExists, NotFound, RainStormError
from agent.common.shell import threads
from agent.hydfs import service as hydfs
from agent.hydfs.client import HydfsClient
from agent.membership import follower
from agent.membership import service as membership
from agent.membership.client import MARGIN_S
from agent.rainstorm import service as rainstorm
from agent.rainstorm.client import RainstormClient
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR, Cluster
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.schedule import Schedule, Step, draw
from tests.simulation.rainstorm import output
from tests.simulation.rainstorm.jobs import KINDS, Workload, generate
from tests.simulation.rainstorm.launcher import Launchers
from tests.simulation.rainstorm.world import small_identities

FAULTS_S = 3.0
FINISHED_S = 240.0
SIZES = (3, 3, 4)
# Without faults of disks: the store has its own schedules for them.
COMMON = ("kill", "power", "pause", "restart", "cut", "cut_one_way", "isolate", "slow_wires", "jump")
# A seed takes 80,000.
STEPS_MAX = 1_000_000
AGAIN_S = 0.3
READ_S = 0.5
# How long a follower waits for news: its request has ended, with a margin, when the slots are looked at.
WATCH_S = 2.0
POLL_S = WATCH_S + MARGIN_S
# Each loop that turns all the time turns at least once between two looks.
LOOKS_APART_S = 1.0
RECORDS = 120


def schedule_of(seed: int | str) -> Schedule:
    """Returns the schedule of a seed; ``variant`` is the kind of job."""
    rng = random.Random(f"{seed}:whole")
    found = draw(f"whole:{seed}", FAULTS_S, sizes=SIZES, kinds=(*COMMON, "kill_task"), extra={"kill_task": 1})
    return replace(found, variant=rng.choice(KINDS))


def run(schedule: Schedule) -> str:
    """Runs a schedule and returns the hash of its trace; raises AssertionError if a check fails."""
    with ExitStack() as stack:
        stack.enter_context(small_identities())
        stack.enter_context(mock.patch.object(follower, "WATCH_S", WATCH_S))
        cluster = _Whole(schedule)
        stack.enter_context(cluster)
        return cluster.run()


class _Whole(Cluster):
    def __init__(self, schedule: Schedule) -> None:
        services = {
            "membership": membership.Service,
            "hydfs": hydfs.Service,
            "rainstorm": rainstorm.Service,
        }
        settings = {
            "hydfs": HydfsConfig(block_size_bytes=32 * 1024, reserve_bytes=4096),
            "rainstorm": RainstormConfig(spare_tasks=1, batch_bytes=256),
        }
        super().__init__(
            schedule.seed,
            schedule.size,
            services,
            settings=settings,
            quality=schedule.quality,
            steps_max=STEPS_MAX,
        )
        self.slots_older_s = POLL_S
        self.looks_apart_s = LOOKS_APART_S
        self._launchers = {name: Launchers(node) for name, node in self.nodes.items()}
        self._schedule = schedule
        rng = random.Random(f"{schedule.seed}:job")
        self._workload = generate(rng, schedule.variant, "input", RECORDS)
        self._reader = _Reader(self, self._workload)

    def run(self) -> str:
        """Runs the schedule."""
        self.start()
        faults = Faults(self, self._schedule.steps, {"kill_task": self._kill_task})
        self.client("user").start("user", self._reader.run)
        self.scheduler.run_for(FAULTS_S)
        faults.end()
        self.wait_until(lambda: self._reader.is_done, FINISHED_S)
        self.check(self._reader.findings)
        self.settle(POLL_S)
        found = [f"crash: {crash}" for crash in self.crashes]
        self.check(found + self.findings())
        return self.trace()

    def _kill_task(self, step: Step) -> None:
        alive = self._launchers[step.nodes[0]].alive()
        if alive:
            alive[int(step.amount * len(alive)) % len(alive)].kill()


class _Reader:
    """A client that puts the input, submits the job, and reads its output again and again."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.findings: list[str] = []
        self.is_done = False
        self._cluster = cluster
        self._workload = workload
        self._seen = b""
        self._turn = 0

    def run(self) -> None:
        """Does all of it; problems go to ``findings``."""
        client = Client(auth.client_context(OPERATOR))
        try:
            self._put(client)
            self._follow(client, self._submit(client))
        except AssertionError as error:
            self.findings.append(str(error))
        finally:
            client.close()
            self.is_done = True

    def _hydfs(self, client: Client) -> HydfsClient:
        """Returns the store of the next node, so that a silent node is not asked again at once."""
        self._turn += 1
        node = list(self._cluster.nodes.values())[self._turn % len(self._cluster.nodes)]
        return HydfsClient(client, Address(node.address, node.config.me.hydfs_port, node.name))

    def _engine(self, client: Client) -> RainstormClient:
        nodes = self._cluster.nodes.values()
        return RainstormClient(
            client, [Address(node.address, node.config.me.rainstorm_port, node.name) for node in nodes]
        )

    def _put(self, client: Client) -> None:
        while True:
            try:
                self._hydfs(client).put("input", io.BytesIO(self._workload.data), timeout_s=30.0)
                return
            except AlreadyExists:
                return  # an earlier attempt succeeded
            except RainStormError:
                threads.sleep(AGAIN_S)

    def _submit(self, client: Client) -> str:
        while True:
            try:
                return self._engine(client).submit(self._workload.raw)
            except RainStormError:
                threads.sleep(AGAIN_S)

    def _follow(self, client: Client, job: str) -> None:
        engine, state = self._engine(client), ""
        while state != "finished":
            try:
                state = engine.wait(job, READ_S).state
            except RainStormError:
                threads.sleep(AGAIN_S)
            assert state not in ("failed", "cancelled"), f"R9: {job} is {state}"
            self._read(client, job)
        while not self._read(client, job):
            threads.sleep(AGAIN_S)
        output.check_whole(self._workload, job, self._seen)

    def _read(self, client: Client, job: str) -> bool:
        sink = io.BytesIO()
        try:
            self._hydfs(client).get(f"out-{job}", sink, timeout_s=10.0)
        except NotFound as error:
            raise AssertionError(f"R2: the output of {job} is gone: {error}") from None
        except RainStormError:
            return False
        data = sink.getvalue()
        assert data.startswith(self._seen), f"R2: output of {job} vanished"
        self._seen = data
        output.check_seen(self._workload, job, data)
        return True
