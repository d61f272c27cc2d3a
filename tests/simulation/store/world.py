"""One run of the stores: a cluster, its clients, a schedule of faults, and the checks.

Sizes and intervals of the shells are made small, so that a few seconds of virtual time and some hundred
bytes meet the situations of hours of production: blocks of half a kilobyte, several pieces for each, journals
of a few records. Their meaning stays the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

from agent.common.config import HydfsConfig
from agent.hydfs import client as client_module
from agent.hydfs.core.block import SEALED
from agent.hydfs.service import Service
from agent.hydfs.shell import copier, gateway, put, repair, store
from agent.hydfs.shell.transfers import incoming
from agent.membership import service as membership
from tests.simulation.machine.cluster import DATA_FOLDER, Cluster
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.host import Factory
from tests.simulation.machine.schedule import Schedule, Step, draw
from tests.simulation.store import rest
from tests.simulation.store.clients import BLOCK_BYTES, StoreClient, planned
from tests.simulation.store.copies import Copies
from tests.simulation.store.history import History
from tests.simulation.store.strangers import Stranger
from tests.simulation.store.view import SERVICE, Authority

FAULTS_S = 4.0
# Several times the number of steps of the longest runs.
STEPS_MAX = 400_000
# How long after the faults every client must have ended.
ANSWERED_S = 90.0
IDLE_S = 5.0
PASS_INTERVAL_S = 20.0
# More voters make each request to the file table more expensive, and the schedules of the store no richer;
# the schedules of the register have five.
VOTERS = 3
WRITERS, WRITER_KINDS = 2, {"append": 8, "read_log": 2}
PUTTERS, PUTTER_KINDS = (
    2,
    {"put": 5, "aborted_put": 2, "cut_put": 1, "get": 4, "delete": 2, "look": 1},
)
ACTIONS = 8
PAUSE_S = 0.25
EXTRA: dict[str, int | str] = {"kill_client": 0, "stranger": 1, "rot": 1, "new_disk": 1, "lose_node": 1}
# The faults that remove a copy for good: three copies tolerate only one of them at a time.
LOSSES = ("rot", "new_disk", "lose_node")
# The variant with real membership agents instead of the model of ``view``; it takes several times as long.
WHOLE = "whole"
# A long poll for the view holds its connection for up to this long.
POLL_S = 12.0
# Clients that have ended.
DONE = "client done"
MOMENTS = (
    "append acknowledged",
    "append found done",
    "file stored",
    "file deleted",
    "file not found",
    "put interrupted",
    "put aborted",
    "put failed",
    "client killed",
)


def schedule_of(seed: int | str, kinds: tuple[str, ...] = ()) -> Schedule:
    """Returns the schedule of a seed, of some kinds of fault when they are named."""
    return draw(f"store:{seed}", FAULTS_S, kinds=kinds, extra=EXTRA, once=LOSSES, sizes=(3, 3, 4, 5))


@contextmanager
def small_sizes() -> Iterator[None]:
    """Makes the limits of the shells small."""
    limits = (
        (client_module, "READ_PIECE_BYTES", 700),
        (gateway, "READ_BYTES_MAX", 300),
        (copier, "PIECE_BYTES", 200),
        (put, "IDLE_S_MAX", IDLE_S),
        (incoming, "IDLE_S_MAX", IDLE_S),
        (repair, "PASS_INTERVAL_S", PASS_INTERVAL_S),
        # Some lines go into the journal, the longer ones straight into the block's file.
        (store, "INLINE_BYTES_MAX", 64),
    )
    with ExitStack() as stack:
        for owner, name, value in limits:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(mock.patch.dict(store.Store.__init__.__kwdefaults__, segment_bytes=2048))
        yield


class StoreRun:
    """A run in progress."""

    def __init__(
        self, schedule: Schedule, *, ack: str = "", voters: int = VOTERS, with_clients: bool = True
    ) -> None:
        """``ack`` is drawn if it is not given."""
        self.schedule = schedule
        self.history = History()
        self.hits: Counter[str] = Counter()
        self.authority = Authority()
        rng = random.Random(f"{schedule.seed}:settings")
        self.ack = ack or rng.choice(("all", "all", "quorum"))
        knobs = HydfsConfig(
            block_size_bytes=BLOCK_BYTES,
            reserve_bytes=4096,
            ack=self.ack,
            ack_timeout_s=rng.choice((0.3, 1.0)),
        )
        self.cluster = Cluster(
            schedule.seed,
            schedule.size,
            self._factories(),
            settings={"hydfs": knobs, "voters": tuple(schedule.names()[:voters])},
            quality=schedule.quality,
            steps_max=STEPS_MAX,
        )
        if schedule.variant == WHOLE:
            self.cluster.slots_older_s = POLL_S
        self.copies = Copies(self.cluster.nodes)
        self.clients = self._clients() if with_clients else []
        self.faults = Faults(
            self.cluster,
            schedule.steps,
            {
                "kill_client": self._kill_client,
                "stranger": self._stranger,
                "rot": self._rot,
                "new_disk": self._new_disk,
                "lose_node": self._lose_node,
            },
        )

    def _factories(self) -> dict[str, Factory]:
        if self.schedule.variant == WHOLE:
            return {"membership": membership.Service, SERVICE: Service}
        return {SERVICE: self.authority.build}

    def _clients(self) -> list[StoreClient]:
        made = []
        for count, kind, kinds in ((WRITERS, "writer", WRITER_KINDS), (PUTTERS, "putter", PUTTER_KINDS)):
            for number in range(1, count + 1):
                name = f"{kind}{number}"
                actions = planned(self.schedule.seed, name, kinds, ACTIONS, PAUSE_S)
                client = StoreClient(self.cluster, self.history, name, actions)
                client.hit = partial(_count, self.hits)
                made.append(client)
        return made

    def play(self) -> None:
        """Runs everything to its end and checks it."""
        cluster = self.cluster
        for node in cluster.nodes.values():
            node.start_all()
        if self.schedule.variant != WHOLE:
            self.authority.begin(cluster)
        for client in self.clients:
            client.start()
        cluster.scheduler.run_for(FAULTS_S)
        cluster.check(self.copies.problems)
        self.faults.end()
        for client in self.clients:
            client.come_to_an_end()
        cluster.wait_until(lambda: self.hits[DONE] == len(self.clients), ANSWERED_S)
        self.finish()

    def finish(self) -> None:
        """Makes the checks of a cluster at rest."""
        self.cluster.check(rest.check(self))

    # -- faults of the store --------------------------------------------------------------------------

    def _kill_client(self, step: Step) -> None:
        self.clients[int(step.amount * len(self.clients))].kill()

    def _stranger(self, step: Step) -> None:
        stranger = Stranger(self.cluster, self.cluster.nodes[step.nodes[0]], step)
        stranger.start()

    def _rot(self, step: Step) -> None:
        """Flips a bit of a sealed block while the machine is off: agents check a block only once."""
        node = self.cluster.nodes[step.nodes[0]]
        service = node.agents[SERVICE].service
        if not node.is_on or not isinstance(service, Service):
            return
        sealed = [key for key, meta in service._store.index.items() if meta.state == SEALED and meta.length]
        self.faults.cut_power([node], step)
        paths = {f"{DATA_FOLDER}/hydfs/blocks/{file_id}.{number}" for file_id, number in sealed}
        rotting = sorted(paths & set(node.disk.paths()))
        if rotting:
            self.copies.bereft[node.name] = None
            node.disk.flip_bit(rotting[int(step.amount * len(rotting))])
            self.hits["a block rotted"] += 1

    def _new_disk(self, step: Step) -> None:
        node = self.cluster.nodes[step.nodes[0]]
        if node.is_on:
            self.hits["a new disk"] += 1
            self.copies.bereft[node.name] = None
            self.faults.cut_power([node], step)
            node.replace_disk()

    def _lose_node(self, step: Step) -> None:
        node = self.cluster.nodes[step.nodes[0]]
        if self.schedule.size > 3:
            self.hits["a node lost for good"] += 1
            self.cluster.lose(node)

    def services(self) -> dict[str, Service]:
        """Returns the running agents."""
        return {
            name: agent.service
            for name, node in self.cluster.nodes.items()
            if name not in self.cluster.lost and isinstance((agent := node.agents[SERVICE]).service, Service)
        }


def _count(hits: Counter[str], moment: str) -> None:
    hits[moment] += 1


def run(schedule: Schedule) -> StoreRun:
    """Runs one schedule.

    Raises:
        AssertionError: a check failed.
    """
    with small_sizes():
        found = StoreRun(schedule)
        with found.copies.watched(), found.cluster:
            found.play()
        return found
