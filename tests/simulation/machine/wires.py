"""The wires between simulated hosts: latency, loss, partitions, clogs, hosts that lose power.

Hosts are addresses. A stream's bytes are never lost or reordered while both hosts live: TCP repeats them, so
a partition only delays them, and neither end is told. Datagrams are lost, doubled and overtaken. A cut
stops both kinds or, like a packet filter, only one of them. A clog holds everything back and then releases it
in order: as long as it lasts, it cannot be told from a cut.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.machine.kernel import Backlog, DatagramPort, StreamEnd
    from tests.simulation.machine.scheduler import Scheduler

# TCP repeats a lost segment after 0.2 s at first, then less and less often.
REPEAT_S_MIN, REPEAT_S_MAX = 0.2, 2.0
FIRST_FREE_PORT = 40_000
STREAMS, DATAGRAMS = KINDS = ("streams", "datagrams")


@dataclass(frozen=True, slots=True)
class Quality:
    """The effects of a wire on its traffic; shares are between 0 and 1.

    The share ``reorder`` of the datagrams takes up to ``reorder_s`` longer, so that many others overtake it.
    """

    latency_s_min: float = 0.0001
    latency_s_max: float = 0.002
    loss: float = 0.0
    duplication: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.2


@dataclass(slots=True)
class Packet:
    """A part of a stream: bytes with the open files that travel with them, or an end."""

    arrives_at: float
    kind: str
    data: bytes = b""
    files: Sequence[Any] = ()


class Pipe:
    """One direction of a stream; packets arrive in the order in which they were sent."""

    def __init__(self, wires: Wires, source: str, target: StreamEnd) -> None:
        self._wires = wires
        self._source = source
        self._target = target
        self._packets: deque[Packet] = deque()
        self._arrives_at = 0.0
        self._life = wires.lives[source]
        # The number of bytes on their way.
        self.bytes = 0

    def send(self, kind: str, data: bytes = b"", files: Sequence[Any] = ()) -> None:
        """Sends a packet."""
        wires, goal = self._wires, self._target.host
        if self._is_dead():
            return
        packet = Packet(0.0, kind, data, files)
        if self._source == goal and not self._packets:
            self._target.take(packet)
            return
        now = wires.scheduler.now
        arrives_at = max(self._arrives_at, now + wires.latency_s(self._source, goal))
        packet.arrives_at = self._arrives_at = arrives_at
        self._packets.append(packet)
        self.bytes += len(data)
        if len(self._packets) == 1:
            wires.scheduler.at(arrives_at, self._arrive)

    def _arrive(self) -> None:
        wires, now = self._wires, self._wires.scheduler.now
        while self._packets and self._packets[0].arrives_at <= now:
            if wires.is_cut(self._source, self._target.host):
                wires.stalled[self] = None
                return
            clogged_until = wires.clogged_until(self._source, self._target.host)
            if clogged_until > now:
                self._arrives_at = max(self._arrives_at, clogged_until)
                wires.scheduler.at(clogged_until, self._arrive)
                return
            packet = self._packets.popleft()
            self.bytes -= len(packet.data)
            self._target.take(packet)
        if self._packets:
            wires.scheduler.at(self._packets[0].arrives_at, self._arrive)

    def repeat(self) -> None:
        """Sends the packets that a partition held back again; a reset is sent only once, so it is lost."""
        kept = [] if self._is_dead() else [packet for packet in self._packets if packet.kind != "reset"]
        if len(kept) < len(self._packets):
            self._target.watch_peer()  # only keep-alive can tell now
        self._packets = deque(kept)
        self.bytes = sum(len(packet.data) for packet in kept)
        self._arrive()

    def _is_dead(self) -> bool:
        """Tells whether the sending host has lost power since then: if so, nothing is repeated."""
        return self._wires.lives[self._source] != self._life


class Wires:
    """The network between the hosts of one simulation."""

    def __init__(
        self, scheduler: Scheduler, *, quality: Quality | None = None, buffer_bytes: int = 64 * 1024
    ) -> None:
        """A stream holds ``buffer_bytes`` per direction before its writer has to wait."""
        self.scheduler = scheduler
        self.rng = random.Random(scheduler.random.getrandbits(64))
        self.quality = quality or Quality()
        self.buffer_bytes = buffer_bytes
        self.listeners: dict[tuple[str, Any], Backlog] = {}
        self.ports: dict[tuple[str, int], DatagramPort] = {}
        # Hosts without power.
        self.dark: set[str] = set()
        # How often each host lost power.
        self.lives: Counter[str] = Counter()
        self.stalled: dict[Pipe, None] = {}
        self.descriptors = itertools.count(1 << 24)  # far from those of files: mixing them up fails at once
        self._free_ports = itertools.count(FIRST_FREE_PORT)
        self._qualities: dict[tuple[str, str], Quality] = {}
        self._cuts: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
        self._clogs: dict[tuple[str, str], float] = {}

    def set_quality(self, source: str, target: str, quality: Quality | None) -> None:
        """Changes the wire from one host to another; None restores the default."""
        if quality is None:
            self._qualities.pop((source, target), None)
        else:
            self._qualities[source, target] = quality

    def forget_qualities(self) -> None:
        """Restores the default quality of all wires."""
        self._qualities.clear()

    def cut(self, source: str, target: str, *, both: bool = True, kinds: Sequence[str] = KINDS) -> None:
        """Lets nothing of ``kinds`` through from ``source`` to ``target``, nor back if ``both``."""
        for kind in kinds:
            self._cuts[kind].add((source, target))
            if both:
                self._cuts[kind].add((target, source))

    def mend(self, source: str, target: str, kinds: Sequence[str] = KINDS) -> None:
        """Ends a cut from ``source`` to ``target``."""
        for kind in kinds:
            self._cuts[kind].discard((source, target))
        self._resume()

    def clog(self, source: str, target: str, seconds: float) -> None:
        """Holds everything from ``source`` to ``target`` back for a time."""
        self._clogs[source, target] = self.scheduler.now + seconds

    def heal(self, source: str | None = None, target: str | None = None) -> None:
        """Ends a cut in both directions, or all cuts; packets that a clog holds still wait for its end."""
        for cuts in self._cuts.values():
            if source is None or target is None:
                cuts.clear()
            else:
                cuts -= {(source, target), (target, source)}
        self._resume()

    def lose_power(self, host: str) -> None:
        """Switches a host off: everything that it sends from now on is lost. Kill its processes as well."""
        self.dark.add(host)
        self.lives[host] += 1

    def restore_power(self, host: str) -> None:
        """Switches a host on again; it knows nothing of its former connections."""
        self.dark.discard(host)
        self._resume()

    def is_cut(self, source: str, target: str, kind: str = STREAMS) -> bool:
        """Tells whether a kind of traffic is cut off."""
        cuts, dark = self._cuts[kind], self.dark
        return bool((cuts and (source, target) in cuts) or (dark and (source in dark or target in dark)))

    def clogged_until(self, source: str, target: str) -> float:
        """Returns the end of the current or last clog."""
        return self._clogs.get((source, target), 0.0) if self._clogs else 0.0

    def latency_s(self, source: str, target: str) -> float:
        """Draws the latency from host to host."""
        if source == target:
            return 0.0
        quality = self.quality
        if self._qualities:
            quality = self._qualities.get((source, target), quality)
        # The same as ``uniform``, at half the cost.
        least_s = quality.latency_s_min
        return least_s + (quality.latency_s_max - least_s) * self.rng.random()

    def free_port(self) -> int:
        """Returns a port that was never used."""
        return next(self._free_ports)

    def reset(self, source: str, target: StreamEnd) -> None:
        """Tells the end of a stream that the other one does not exist."""
        if source == target.host:
            target.take(Packet(0.0, "reset"))
        elif not self.is_cut(source, target.host):
            latency_s = self.latency_s(source, target.host)
            self.scheduler.after(latency_s, lambda: target.take(Packet(0.0, "reset")))

    def post(self, source: str, target: str, arrive: Callable[[], None]) -> None:
        """Calls ``arrive`` for each copy of a datagram that gets through."""
        if source == target:
            arrive()
            return
        quality = self._qualities.get((source, target), self.quality)
        chance = self.rng.random
        for _ in range(2 if chance() < quality.duplication else 1):
            if chance() >= quality.loss and not self.is_cut(source, target, DATAGRAMS):
                delay_s = self.latency_s(source, target)
                if quality.reorder and chance() < quality.reorder:
                    delay_s += chance() * quality.reorder_s
                arrives_at = self.scheduler.now + delay_s
                self.scheduler.at(max(arrives_at, self.clogged_until(source, target)), arrive)

    def _resume(self) -> None:
        stalled, self.stalled = list(self.stalled), {}
        for pipe in stalled:
            self.scheduler.after(self.rng.uniform(REPEAT_S_MIN, REPEAT_S_MAX), pipe.repeat)
