"""The simulated network: bytes on links with delay, loss, duplicates, reordering and cuts.

Two services. ``send_datagram`` is UDP: it may be lost, doubled, and overtaken by later ones. ``send_stream``
is TCP: bytes arrive once and in order, or the stream breaks. A stream breaks when its target is down (the
sender is told after one delay, as by a reset) or when a message meets a cut link (nobody is told: the
sender's own time-out must notice); later messages are then dropped until the sender calls ``reconnect``.

Cuts are one-way: ``cut("a", "b")`` stops what a sends to b. A partition is a set of cuts between groups.
"""

from __future__ import annotations

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


class Network:
    """Carries bytes between the nodes of a world."""

    def __init__(self, world: World, link: LinkSettings) -> None:
        self.link = link
        self.links: dict[tuple[str, str], LinkSettings] = {}
        self.delivered_bytes = 0
        self._world = world
        self._rng = world.random("network")
        self._cuts: set[tuple[str, str]] = set()
        self._stream_clear_at: dict[tuple[str, str], float] = {}
        self._broken: set[tuple[str, str]] = set()

    def send_datagram(self, source: str, target: str, data: bytes) -> None:
        """Sends one datagram; the sender never learns what became of it."""
        link = self.links.get((source, target), self.link)
        self._world.trace("send", source, target, len(data), zlib.crc32(data))
        copies = 1 + (self._rng.random() < link.duplicate)
        for _ in range(copies):
            lost = self._rng.random() < link.loss
            delay = self._delay(link)
            if not lost and not self.is_cut(source, target):
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

    def isolate(self, name: str, *, inbound: bool = True, outbound: bool = True) -> None:
        """Cuts one node off from all others, in one or both directions."""
        for other in self._world.nodes:
            if other != name:
                if inbound:
                    self.cut(other, name)
                if outbound:
                    self.cut(name, other)

    def heal(self) -> None:
        """Mends every cut."""
        self._world.trace("heal")
        self._cuts.clear()

    def is_cut(self, source: str, target: str) -> bool:
        """Tells whether traffic from ``source`` to ``target`` is stopped."""
        return (source, target) in self._cuts

    def _delay(self, link: LinkSettings) -> float:
        return link.delay_min_s + self._rng.expovariate(1.0) * link.delay_mean_s

    def _deliver_datagram(self, source: str, target: str, data: bytes) -> None:
        if not self.is_cut(source, target):  # a cut also stops what is under way
            self.delivered_bytes += len(data)
            self._world.deliver(source, target, data)

    def _deliver_stream(self, source: str, target: str, generation: int, data: bytes) -> None:
        pair = (source, target)
        peer = self._world.nodes[target]
        if pair in self._broken:
            return
        if self.is_cut(source, target):
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
