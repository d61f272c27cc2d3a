"""The simulated network: bytes on links with delay, loss, duplicates, reordering, clogs and cuts.

Two services. ``send_datagram`` is UDP: it may be lost, doubled, and overtaken by later ones. ``send_stream``
is TCP: bytes arrive once and in order, or the stream breaks. A stream breaks when its target is down (the
sender is told after one delay, as by a reset) or when a message meets a cut link (nobody is told: the
sender's own time-out must notice); later messages are then dropped until the sender calls ``reconnect``.

Cuts are one-way: ``cut("a", "b")`` stops what a sends to b. A partition is a set of cuts between groups;
partial ones leave a node that sees both halves (``bridge``) or give every node another majority to see
(``majorities_ring``), as Jepsen's nemesis does. A **clog** holds everything on a link back until it ends and
then lets it go in order: as long as it lasts nobody can tell it from a cut.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How a link behaves; delays are drawn as minimum + exponential(mean)."""

    delay_min_s: float = 0.0002
    delay_mean_s: float = 0.0008
    loss: float = 0.0
    duplicate: float = 0.0
    # This share of the datagrams takes an extra time of up to ``reorder_s``, so that many others overtake it.
    reorder: float = 0.0
    reorder_s: float = 0.2


class Network:
    """Carries bytes between the nodes of a world."""

    def __init__(self, world: World, link: LinkSettings) -> None:
        self.link = link
        self.links: dict[tuple[str, str], LinkSettings] = {}
        self.delivered_bytes = 0
        self._world = world
        self._rng = world.random("network")
        self._cuts: set[tuple[str, str]] = set()
        self._filtered: set[tuple[str, str]] = set()
        self._clogged_until: dict[tuple[str, str], float] = {}
        self._stream_clear_at: dict[tuple[str, str], float] = {}
        self._broken: set[tuple[str, str]] = set()

    def send_datagram(self, source: str, target: str, data: bytes) -> None:
        """Sends one datagram; the sender never learns what became of it."""
        pair, draw = (source, target), self._rng.random
        link = self.links.get(pair, self.link) if self.links else self.link
        self._world.trace("send", source, target, len(data), zlib.crc32(data))
        copies = 1 + (draw() < link.duplicate)
        for _ in range(copies):
            lost = draw() < link.loss
            delay = link.delay_min_s - math.log(1.0 - draw()) * link.delay_mean_s
            if link.reorder and draw() < link.reorder:
                delay += draw() * link.reorder_s
            if not lost and pair not in self._cuts:
                self._world.after(delay, self._deliver_datagram, source, target, data)

    def send_stream(self, source: str, target: str, data: bytes) -> None:
        """Sends one message in order after the earlier ones of the same pair."""
        pair = (source, target)
        self._world.trace("stream", source, target, len(data), zlib.crc32(data))
        delay = self._delay(self.links.get(pair, self.link))
        if pair in self._broken:
            return
        if self.is_cut(source, target):
            self._broken.add(pair)
            return
        arrives_at = max(self._world.now + delay, self._stream_clear_at.get(pair, 0.0))
        self._stream_clear_at[pair] = arrives_at
        peer = self._world.nodes[target]
        self._world.at(arrives_at, self._deliver_stream, source, target, peer.generation, data)

    def reconnect(self, source: str, target: str) -> None:
        """Makes a broken stream usable again; bytes under way on the old one may still arrive."""
        self._broken.discard((source, target))

    def cut(self, source: str, target: str) -> None:
        """Stops everything that ``source`` sends to ``target``."""
        self._world.trace("cut", source, target)
        self._cuts.add((source, target))

    def mend(self, source: str, target: str) -> None:
        """Lets traffic from ``source`` to ``target`` pass again."""
        self._world.trace("mend", source, target)
        self._cuts.discard((source, target))

    def partition(self, *groups: Sequence[str]) -> None:
        """Cuts all links between different groups, both ways."""
        for group in groups:
            for other in groups:
                if other is not group:
                    for source in group:
                        for target in other:
                            self.cut(source, target)

    def bridge(self, names: Sequence[str], middle: str) -> None:
        """Cuts the nodes into two halves that only ``middle`` can reach both of."""
        others = [name for name in names if name != middle]
        self.partition(others[: len(others) // 2], others[len(others) // 2 :])

    def majorities_ring(self, names: Sequence[str]) -> None:
        """Lets each node reach only its neighbours on a ring: a majority for each, and everywhere another."""
        reach = (len(names) // 2 + 1) // 2
        for index, source in enumerate(names):
            for other, target in enumerate(names):
                distance = min((index - other) % len(names), (other - index) % len(names))
                if distance > reach:
                    self.cut(source, target)

    def clog(self, source: str, target: str, duration_s: float) -> None:
        """Holds back everything between two nodes, in this direction, for a time."""
        self._world.trace("clog", source, target, duration_s)
        self._clogged_until[source, target] = self._world.now + duration_s

    def filter(self, source: str, target: str, *, on: bool = True) -> None:
        """Stops the datagrams from one node to another, but not the streams, as a firewall would."""
        self._world.trace("filter", source, target, on)
        (self._filtered.add if on else self._filtered.discard)((source, target))

    def isolate(self, name: str, *, inbound: bool = True, outbound: bool = True) -> None:
        """Cuts one node off from all others, in one or both directions."""
        for other in self._world.nodes:
            if other != name:
                if inbound:
                    self.cut(other, name)
                if outbound:
                    self.cut(name, other)

    def heal(self) -> None:
        """Mends every cut, filter and clog; what a clog holds comes when it would have come."""
        self._world.trace("heal")
        self._cuts.clear()
        self._filtered.clear()
        self._clogged_until.clear()

    def is_cut(self, source: str, target: str) -> bool:
        """Tells whether traffic from ``source`` to ``target`` is stopped."""
        return (source, target) in self._cuts

    def cuts(self) -> frozenset[tuple[str, str]]:
        """Returns the pairs (source, target) that are cut."""
        return frozenset(self._cuts)

    def _delay(self, link: LinkSettings) -> float:
        return link.delay_min_s - math.log(1.0 - self._rng.random()) * link.delay_mean_s

    def _deliver_datagram(self, source: str, target: str, data: bytes) -> None:
        pair = (source, target)
        until = self._clogged_until.get(pair) if self._clogged_until else None
        if until is not None and until > self._world.now:
            self._world.at(until, self._deliver_datagram, source, target, data)
        elif pair not in self._cuts and pair not in self._filtered:
            # A cut also stops what is under way.
            self.delivered_bytes += len(data)
            self._world.deliver(source, target, data)

    def _deliver_stream(self, source: str, target: str, generation: int, data: bytes) -> None:
        pair = (source, target)
        peer = self._world.nodes[target]
        if pair in self._broken:
            return
        until = self._clogged_until.get(pair)
        if until is not None and until > self._world.now:
            self._stream_clear_at[pair] = max(until, self._stream_clear_at.get(pair, 0.0))
            self._world.at(until, self._deliver_stream, source, target, generation, data)
        elif self.is_cut(source, target):
            self._broken.add(pair)
        elif not peer.up or peer.generation != generation:
            self._broken.add(pair)
            self._world.after(self._delay(self.link), self._refuse, source, target)
        else:
            self.delivered_bytes += len(data)
            self._world.deliver(source, target, data)

    def _refuse(self, source: str, target: str) -> None:
        if not self.is_cut(target, source):
            self._world.report_unreachable(source, target)
