"""A deterministic world for cores: one heap of events, seeded randomness, nodes that crash and come back.

One thread, one clock: an event is (time, sequence number, action), so equal times keep the order in which
they were scheduled. Every source of chance is ``random.Random(f"{seed}:{name}")``, so that drawing more from
one does not shift another (FoundationDB, SIGMOD 2021, section 4; TigerBeetle's VOPR). What happens is hashed
into a trace: the same seed gives the same hash, in every process.

A subsystem takes part by writing a ``Host``: the shell of its core. ``World.add`` is given a function that
makes the host; it is called at the first start and again at each restart, and gets the ``Node``: name,
generation, network, disk, timers. Bytes go out by ``node.send_datagram`` or ``node.send_stream``; durable
state goes to ``node.disk``. After each call into a host the world asks for ``next_deadline()`` and calls
``on_timer`` then.

A node can crash, be paused, be slow (each call into its host takes time, so that messages and timers queue
up) and have its wall clock set; its monotonic clock never jumps. A host that raises ``DiskFailed`` or
``DiskFull``, or ``Corrupt`` at its start, has stopped its agent: the node crashes. Moments worth reaching
are counted by ``World.hit``.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

import msgpack

from agent.common.errors import Corrupt, DiskFailed, DiskFull
from tests.simulation.disk import Disk
from tests.simulation.network import LinkSettings, Network

START_AT = 1000.0
TRACE_LINES_KEPT = 200
TRACE_BATCH = 1000
EVENTS_MAX = 20_000_000
# What a call into the host of a slow node takes, times its slowness.
PROCESSING_S = 0.0004
WALL_EPOCH_S = 1_700_000_000.0


class Host(Protocol):
    """What a subsystem puts on a simulated node: the shell that drives its core."""

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        """Takes the bytes that ``sender`` sent."""

    def on_timer(self, now: float) -> None:
        """The deadline has been reached (late after a pause, never early)."""

    def next_deadline(self) -> float | None:
        """Returns when ``on_timer`` is due, or None."""

    def on_unreachable(self, now: float, target: str) -> None:
        """A stream to ``target`` was reset."""

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule of the protocol is broken."""


class Node:
    """One simulated machine (or one process of it, named like ``n1/hydfs``)."""

    def __init__(self, world: World, name: str, make: Callable[[Node], Host]) -> None:
        self.world = world
        self.name = name
        self.up = False
        self.paused = False
        self.generation = 0
        self.slowness = 1.0
        self.wall_offset_s = 0.0
        self.disk = Disk(self, world.random(f"disk:{name}"))
        self.host: Host | None = None
        self._make = make
        self._wake_at: float | None = None
        self._busy_until = 0.0
        self._backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    @property
    def now(self) -> float:
        """Returns the monotonic time."""
        return self.world.now

    @property
    def wall_time(self) -> float:
        """Returns this node's idea of the wall-clock time."""
        return WALL_EPOCH_S + self.world.now + self.wall_offset_s

    def random(self, name: str) -> random.Random:
        """Returns this node's own random stream called ``name``."""
        return self.world.random(f"{self.name}:{name}")

    def send_datagram(self, target: str, data: bytes) -> None:
        """Sends bytes that may be lost, doubled or overtaken."""
        self.world.network.send_datagram(self.name, target, data)

    def send_stream(self, target: str, data: bytes) -> None:
        """Sends bytes that arrive in order or not at all."""
        self.world.network.send_stream(self.name, target, data)

    def reconnect(self, target: str) -> None:
        """Opens a fresh stream to ``target`` after one that broke."""
        self.world.network.reconnect(self.name, target)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Calls ``action`` on this node after a delay, unless it has crashed by then."""
        generation = self.generation
        self.world.after(delay_s, self._enter, generation, action)

    def start(self) -> None:
        """Makes the host from what is durable."""
        assert not self.up, f"{self.name} is up already"
        self.up, self.paused = True, False
        self.generation += 1
        self._wake_at = None
        self._busy_until = 0.0
        try:
            self.host = self._make(self)
        except (Corrupt, DiskFailed, DiskFull) as error:
            self._stop(error)
            return
        self.arm()

    def crash(self) -> None:
        """Loses everything that is not durable, at once."""
        assert self.up, f"{self.name} is down already"
        self.up, self.host = False, None
        self.generation += 1
        self._backlog.clear()
        self.disk.crash()

    def resume(self) -> None:
        """Runs on after a pause: what piled up is handled now, in order; timers before it or after it."""
        self.paused = False
        generation = self.generation
        backlog, self._backlog = self._backlog, []
        # Which thread runs first is for the operating system to say.
        if self.host is not None and self.world.random(f"resume:{self.name}").random() < 0.5:
            due = self.host.next_deadline()
            if due is not None and due <= self.world.now:
                self._run(self._tick)
        for action, arguments in backlog:
            self._enter(generation, action, *arguments)
        if self.up and generation == self.generation:
            self._wake_at = None
            self.arm()

    def receive(self, source: str, data: bytes) -> None:
        """Takes the bytes that ``source`` sent, now or when the node gets to it."""
        self._enter(self.generation, self._take, source, data)

    def call(self, action: Callable[[], None]) -> None:
        """Runs ``action`` on this node now, or when its pause ends; ignored while it is down."""
        self._enter(self.generation, action)

    def arm(self) -> None:
        """Schedules the host's deadline when it moved forward."""
        if self.host is None or self.paused:
            return
        deadline = self.host.next_deadline()
        if deadline is None:
            return
        if deadline < self.world.now:
            deadline = self.world.now
        if self._wake_at is None or deadline < self._wake_at:
            self._wake_at = deadline
            self.world.at(deadline, self._wake, self.generation, deadline)

    def _wake(self, generation: int, deadline: float) -> None:
        if not self.up or generation != self.generation or self.paused or self._wake_at != deadline:
            return
        if self._busy_until > self.world.now:
            self._wake_at = self._busy_until
            self.world.at(self._wake_at, self._wake, generation, self._wake_at)
            return
        self._wake_at = None
        assert self.host is not None
        due = self.host.next_deadline()
        if due is not None and due <= self.world.now:
            if self.slowness > 1.0:
                self._busy_until = self.world.now + PROCESSING_S * self.slowness
            self._run(self._tick)
        else:
            self.arm()

    def _take(self, source: str, data: bytes) -> None:
        assert self.host is not None
        self.host.on_message(self.world.now, source, data)

    def _tick(self) -> None:
        assert self.host is not None
        self.host.on_timer(self.world.now)

    def _enter(self, generation: int, action: Callable[..., None], *arguments: Any) -> None:
        if not self.up or generation != self.generation:
            return
        if self.paused:
            self._backlog.append((action, arguments))
        elif self.slowness > 1.0 or self._busy_until > self.world.now:
            self._busy_until = max(self._busy_until, self.world.now) + PROCESSING_S * self.slowness
            self.world.at(self._busy_until, self._finish, generation, action, *arguments)
        else:
            self._run(action, *arguments)

    def _finish(self, generation: int, action: Callable[..., None], *arguments: Any) -> None:
        if not self.up or generation != self.generation:
            return
        if self.paused:
            self._backlog.append((action, arguments))
        else:
            self._run(action, *arguments)

    def _run(self, action: Callable[..., None], *arguments: Any) -> None:
        generation = self.generation
        try:
            action(*arguments)
        except (DiskFailed, DiskFull) as error:
            self._stop(error)
            return
        if self.host is not None and generation == self.generation:
            self.host.check_invariants()
            self.arm()

    def _stop(self, error: Exception) -> None:
        """Ends the agent, which has reported a failed disk: it must not go on."""
        self.world.hit(f"agent stopped: {type(error).__name__}")
        self.world.crash(self.name)


class World:
    """The clock, the heap of events, the nodes and the network between them."""

    def __init__(self, seed: int | str, *, link: LinkSettings | None = None) -> None:
        self.seed = seed
        self.now = START_AT
        self.nodes: dict[str, Node] = {}
        self.events = 0
        self.hits: Counter[str] = Counter()
        # Called with a node's name just before it loses what it holds in memory.
        self.on_crash: Callable[[str], None] = lambda name: None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._streams: dict[str, random.Random] = {}
        self._digest = hashlib.sha256()
        self._untraced: list[tuple[object, ...]] = []
        self._traced: list[tuple[object, ...]] = []
        # Twice as quick as repr; what msgpack does not know goes in as its repr.
        self._packer = msgpack.Packer(default=repr, autoreset=False)
        self.network = Network(self, link or LinkSettings())

    def random(self, name: str) -> random.Random:
        """Returns the random stream called ``name``: the same object each time."""
        if name not in self._streams:
            self._streams[name] = random.Random(f"{self.seed}:{name}")
        return self._streams[name]

    def add(self, name: str, make: Callable[[Node], Host], *, start: bool = True) -> Node:
        """Adds a node whose host ``make`` builds at each start."""
        node = self.nodes[name] = Node(self, name, make)
        if start:
            self.trace("start", name)
            node.start()
        return node

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Schedules an action at an absolute time."""
        self._sequence += 1
        heappush(self._heap, (time if time > self.now else self.now, self._sequence, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Schedules an action after a delay."""
        assert delay_s >= 0.0, f"{delay_s} s is in the past"
        self._sequence += 1
        heappush(self._heap, (self.now + delay_s, self._sequence, action, arguments))

    def crash(self, name: str) -> None:
        """Kills a node as SIGKILL and a power cut would."""
        self.trace("crash", name)
        self.on_crash(name)
        self.nodes[name].crash()

    def restart(self, name: str) -> None:
        """Starts a node that is down, from what is durable."""
        self.trace("restart", name)
        self.nodes[name].start()

    def pause(self, name: str) -> None:
        """Stops a node as SIGSTOP would: its messages and timers pile up."""
        self.trace("pause", name)
        self.nodes[name].paused = True

    def resume(self, name: str) -> None:
        """Ends a pause."""
        self.trace("resume", name)
        self.nodes[name].resume()

    def slow(self, name: str, slowness: float) -> None:
        """Makes every call into a node's host take ``slowness`` times as long; 1 ends it."""
        self.trace("slow", name, slowness)
        self.nodes[name].slowness = slowness

    def jump(self, name: str, offset_s: float) -> None:
        """Sets a node's wall clock forward or back."""
        self.trace("jump", name, offset_s)
        self.nodes[name].wall_offset_s += offset_s

    def hit(self, moment: str) -> None:
        """Counts a moment that a batch of seeds is to reach."""
        self.hits[moment] += 1

    def deliver(self, source: str, target: str, data: bytes) -> None:
        """Hands bytes to a node (called by the network)."""
        self.trace("deliver", source, target, len(data))
        self.nodes[target].receive(source, data)

    def report_unreachable(self, source: str, target: str) -> None:
        """Tells a node that its stream was reset (called by the network)."""
        node = self.nodes[source]

        def take() -> None:
            assert node.host is not None
            node.host.on_unreachable(self.now, target)

        node.call(take)

    def step(self) -> bool:
        """Runs the next event; returns False when there is none."""
        if not self._heap:
            return False
        self.now, _, action, arguments = heappop(self._heap)
        self.events += 1
        assert self.events < EVENTS_MAX, f"seed {self.seed}: the world does not come to rest"
        action(*arguments)
        return True

    def run(self, duration_s: float) -> None:
        """Runs everything that is due within ``duration_s`` and sets the clock to its end."""
        end = self.now + duration_s
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, action, arguments = heappop(heap)
            self.events += 1
            action(*arguments)
        assert self.events < EVENTS_MAX, f"seed {self.seed}: the world does not come to rest"
        self.now = end

    def wait_for(self, predicate: Callable[[], object], timeout_s: float, what: str) -> float:
        """Runs until ``predicate()`` is true and returns the simulated seconds it took.

        Raises:
            AssertionError: it is still false after ``timeout_s``; the message has the seed and recent events.
        """
        __tracebackhide__ = True
        began, end = self.now, self.now + timeout_s
        while not predicate():
            if not self._heap or self._heap[0][0] > end:
                recent = "\n  ".join(self.recent_lines(40))
                raise AssertionError(
                    f"seed {self.seed}: after {timeout_s:g} simulated s it still does not hold: {what}\n"
                    f"  {recent}"
                )
            self.step()
        return self.now - began

    def trace(self, *fields: object) -> None:
        """Adds a line to the trace; the fields are plain values."""
        self._untraced.append((self.now, *fields))
        if len(self._untraced) >= TRACE_BATCH:
            self._digest_trace()

    def recent_lines(self, count: int) -> list[str]:
        """Returns the last lines of the trace as text."""
        lines = (self._traced + self._untraced)[-count:]
        return [f"{line[0]:.6f} " + " ".join(map(str, line[1:])) for line in lines]

    def trace_hash(self) -> str:
        """Returns the SHA-256 of all trace lines so far; asking does not change it."""
        self._digest_trace()
        return self._digest.hexdigest()

    def _digest_trace(self) -> None:
        # One line is one line whatever the batches, so that asking in between does not matter.
        for line in self._untraced:
            self._packer.pack(line)
        self._digest.update(self._packer.getbuffer())
        self._packer.reset()
        self._traced = (self._traced + self._untraced)[-TRACE_LINES_KEPT:]
        self._untraced = []
