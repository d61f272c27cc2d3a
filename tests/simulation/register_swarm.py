"""The replicated register under a schedule of faults; the history must be linearizable.

The value is the list of all appends in their order, and every operation returns it, so the check needs no
search: G1 of any two returned values one is a prefix of the other; G2 an operation that begins after another
has ended returns at least what that one returned, and an append returns itself; G3 nothing is in the list
twice, and nothing that nobody appended; G4 after the faults a read returns within its bound, with all that
was ever acknowledged; G5 after the faults every voter with a sound disk votes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tests.simulation.membership.run import Result
from tests.simulation.register_host import ClientHost, Invocation
from tests.simulation.register_voter import VoterHost
from tests.simulation.schedule import KINDS, Faults, Schedule, Step, draw
from tests.simulation.voter import FILE, REFUSED_VOTE
from tests.simulation.world import World

FAULTS_S = 4.0
ANSWERED_S = 20.0
DURATION_S = 1.5
# A flipped bit in a voter's log, found at the restart that follows: that voter is lost.
# A voter that crashes, and is back at once, while two clients wait for its promise.
# And one that comes back with an empty disk.
EXTRA = {"flip": 1, "bounce": 1, "forget": 1}
BOUNCE_S = 0.0001
AMBUSH_S, AMBUSH_STEP_S = 1.0, 0.002
MOMENTS = (
    "lost a race",
    "outcome unknown",
    "the same append again",
    "quorum read",
    "voter crashed under two proposals",
    "read by a round",
    "torn register log",
    "a voter forgot",
    "a voter learnt",
    "agent stopped: Corrupt",
    "agent stopped: DiskFailed",
    REFUSED_VOTE,
)


def schedule_of(seed: int | str, only: Sequence[str] = ()) -> Schedule:
    """Returns the schedule of a seed, of ``only`` some kinds of fault when they are named.

    Of its nodes the first are the voters, the others clients.
    """
    kinds = [kind for kind in KINDS if kind not in ("slow", "jump") and (not only or kind in only)]
    extra = {kind: count for kind, count in EXTRA.items() if not only or kind in only}
    schedule = draw(f"register:{seed}", FAULTS_S * 0.9, sizes=(4, 6, 6, 8), kinds=kinds, extra=extra)
    steps = tuple(replace(step, duration_s=min(DURATION_S, step.duration_s)) for step in schedule.steps)
    return replace(schedule, steps=steps)


class RegisterFaults(Faults):
    """Faults that can flip bits and empty disks; more than half of the voters remember at any time."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self._voters = schedule.names()[: schedule.voters]
        self._flipped: dict[str, None] = {}
        super().__init__(world, schedule, durable=self._voters, other=self._strike)

    def _strike(self, step: Step) -> None:
        if step.kind == "flip":
            self._flip(step)
            return
        voter = self._voters[self._names.index(step.names[0]) % len(self._voters)]
        if step.kind == "forget":
            self._forget(replace(step, names=(voter,)))
        else:
            self._ambush(replace(step, names=(voter,), duration_s=BOUNCE_S), self._world.now + AMBUSH_S)

    def _may_lose(self, name: str) -> bool:
        blank = [voter for voter in self._voters if FILE not in self._world.nodes[voter].disk.names()]
        return len({name, *self._flipped, *blank}) <= (len(self._voters) - 1) // 2

    def _forget(self, step: Step) -> None:
        name = step.names[0]
        node = self._world.nodes[name]
        if not node.up or not self._may_lose(name):
            return
        self._world.hit("a voter forgot")
        self._crash(step)
        for file in node.disk.names():
            node.disk.delete(file)

    def _ambush(self, step: Step, until: float) -> None:
        if self.over or self._world.now > until:
            return
        hosts = [node.host for node in self._world.nodes.values() if isinstance(node.host, ClientHost)]
        waiting = sum(host.promised for host in hosts)
        if waiting >= 2 and self._world.nodes[step.names[0]].up:
            self._world.hit("voter crashed under two proposals")
            self._do_crash(step)
        self._world.after(AMBUSH_STEP_S, self._ambush, step, until)

    def _flip(self, step: Step) -> None:
        name = step.names[0]
        node = self._world.nodes[name]
        if name not in self._voters or not node.up:
            return
        if not self._may_lose(name):
            return
        # The last record may be a torn one for all that anybody can tell; with others behind it a flipped bit
        # is damage. So the flip is in the first half.
        size = len(node.disk.read(FILE))
        if size > 400:
            self._flipped[name] = None
            node.disk.flip_bit(FILE, random.Random(f"{step}").randrange(size // 2))
            self._crash(step)


def run(schedule: Schedule) -> Result:
    """Runs one schedule to its end and checks the history.

    Raises:
        AssertionError: a check failed; the message begins with its number.
    """
    world = World(schedule.seed, link=schedule.link)
    names = schedule.names()
    voters, clients = names[: schedule.voters], names[schedule.voters :]
    history: list[Invocation] = []
    for name in voters:
        world.add(name, partial(VoterHost, voters=voters))
        world.nodes[name].disk.tears_to_zeros = len(schedule.steps) % 2 == 1
    for name in clients:
        world.add(name, partial(ClientHost, voters=voters, history=history))
    faults = RegisterFaults(world, schedule)
    world.run(FAULTS_S)
    faults.heal()
    world.run(DURATION_S)  # what a clog holds comes when it would have come, and later answers wait for it
    hosts = [host for name in clients if isinstance(host := world.nodes[name].host, ClientHost)]
    for host in hosts:
        host.stopping = True
    world.wait_for(lambda: all(host.idle for host in hosts), ANSWERED_S, "G4: every client has its answer")
    check(history)
    world.wait_for(lambda: _vote(world, voters), ANSWERED_S, "G5: every voter that is up votes")
    last = hosts[0].read()
    world.wait_for(lambda: hosts[0].idle, ANSWERED_S, "G4: the last read has its answer")
    assert last.value is not None, "G4: the last read fails"
    check(history)
    return Result(world.trace_hash(), dict(world.hits), world.now)


def _vote(world: World, voters: Sequence[str]) -> bool:
    hosts = [world.nodes[name].host for name in voters if world.nodes[name].up]
    return all(isinstance(host, VoterHost) and host.votes for host in hosts)


def check(history: list[Invocation]) -> None:
    """Raises AssertionError when the history is not that of one list that is appended to."""
    invoked = {found.name for found in history}
    known = [found for found in history if found.value is not None]
    longest: tuple[str, ...] = max((found.value or () for found in known), key=len, default=())
    assert len(set(longest)) == len(longest), f"G3: something is in the list twice: {longest}"
    assert all(name in invoked for name in longest), f"G3: nobody appended something of {longest}"
    for found in known:
        value = found.value or ()
        assert longest[: len(value)] == value, f"G1: {value} is no prefix of {longest}"
        assert found.name is None or found.name in value, f"G2: {found} does not return itself"
    for later in known:
        for earlier in known:
            assert earlier.ended_at is not None
            if earlier.ended_at < later.began_at:
                seen, wanted = len(later.value or ()), len(earlier.value or ())
                assert seen >= wanted, f"G2: {later} began after {earlier} had ended"
