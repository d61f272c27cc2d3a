"""Thousands of nodes: the same detector core, timed and weighed (``python -m tests.simulation.scale``).

A formed group of N nodes runs quietly, then some nodes die. It measures the bytes that a node sends, the time
until every survivor believes the dead nodes to be dead, and the speed of the simulation.

Thousands of agents with their threads are out of reach, so the group drives the cores: only the detector runs
(no view register), the group is formed from the start, datagrams are encoded by the real codec to be weighed,
but the receiver is handed the immutable ``Datagram`` itself (one in a thousand is decoded and compared), and
the seal is counted, not computed. Member tables share equal records: a node keeps only the records that
differ from those at the start.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import math
import random
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.membership import datagrams
from agent.membership.core.beliefs.table import Table, checksum
from agent.membership.core.dissemination import exchange
from agent.membership.core.dissemination.seal import TAG_BYTES, TAIL
from agent.membership.core.events import (
    AnnounceMember,
    CompareTables,
    DatagramReceived,
    SendDatagram,
    Started,
    TableReceived,
)
from agent.membership.core.monitor import Monitor
from agent.membership.member import Member, State

# Format, length of the name, and the name itself come before the tail of a sealed datagram.
SEAL_BYTES = 2 + TAIL.size + TAG_BYTES
HEADER_BYTES = 28  # IPv4 and UDP
# The overhead of each side: TCP, the TLS handshake with certificates both ways, and the frames.
CONNECTION_BYTES = 3000
DELAY_MIN_S, DELAY_MEAN_S = 0.0002, 0.0008
CHECKED_EVERY = 1000
DETECTION_MAX_S = 120.0

# A group of hundreds of machines trades detection time for traffic and processor time.
SMALL = MembershipConfig()
LARGE = replace(
    SMALL, probe_interval_s=1.0, ack_timeout_s=0.3, suspicion_min_probes=1.5, gossip_interval_s=0.5
)
LARGE_FROM = 100


class SharedTable(Table):
    """A member table that shares the records of the start and keeps only those that have changed since."""

    def __init__(self, start: dict[str, Member], names: list[str], digest: int) -> None:
        super().__init__()
        self._start = start
        self._names = names
        self.live_count = len(names)
        self.digest = digest

    def get(self, name: str) -> Member | None:
        return self._members.get(name) or self._start.get(name)

    def put(self, member: Member) -> None:
        before = self.get(member.name)
        assert before is not None, f"{member.name} was not there at the start"
        if before == member:
            return
        self._members.setdefault(member.name, before)
        super().put(member)

    def changed(self) -> list[str]:
        """Returns the names whose records may differ from those at the start."""
        return list(self._members)

    def supersedes(self, member: Member) -> bool:
        current = self.get(member.name)
        return current is None or member.precedence > current.precedence

    def sample(self, rng: random.Random, count: int, wanted: Any) -> list[str]:
        chosen: dict[str, None] = {}
        for _ in range(8 * count):
            name = self._names[int(rng.random() * len(self._names))]
            if name not in chosen and wanted(self._members.get(name) or self._start[name]):
                chosen[name] = None
                if len(chosen) == count:
                    break
        return list(chosen)

    def __iter__(self) -> Iterator[Member]:
        changed = self._members
        if not changed:
            return iter(list(self._start.values()))
        return iter([changed.get(name) or member for name, member in self._start.items()])

    def __len__(self) -> int:
        return len(self._start)


@dataclass(slots=True)
class Peer:
    """One simulated node."""

    name: str
    monitor: Monitor
    wake_at: float = math.inf
    up: bool = True
    sent_bytes: int = 0


class Group:
    """N detectors on one clock."""

    def __init__(self, nodes: int, config: MembershipConfig, seed: int | str, loss: float = 0.0) -> None:
        self.now = 1000.0
        self.events = 0
        self.datagrams = 0
        self.loss = loss
        self.deaths: dict[str, dict[str, float]] = {}
        self._rng = random.Random(f"{seed}:network")
        self._heap: list[tuple[float, int, Peer, Any, Any]] = []
        self._sequence = 0
        members = {}
        for index in range(nodes):
            name = f"n{index}"
            address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
            members[name] = Member(name, f"{index + 1:032x}", 1, 0, State.ALIVE, address, 7100)
        names, digest = list(members), 0
        for member in members.values():
            digest ^= checksum(member)
        self.peers: dict[str, Peer] = {}
        for name in names:
            rng = random.Random(f"{seed}:{name}")
            monitor = Monitor(members[name], {}, config, rng, SharedTable(members, names, digest))
            self.peers[name] = Peer(name, monitor)
        for peer in self.peers.values():
            self._carry_out(peer, peer.monitor.handle(self.now, Started()))

    def crash(self, name: str) -> None:
        """Silences a node at once."""
        self.peers[name].up = False
        self.deaths[name] = {}

    def run(self, duration_s: float) -> None:
        """Runs everything that is due within ``duration_s``."""
        end = self.now + duration_s
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, peer, sender, datagram = pop(heap)
            if not peer.up:
                continue
            if type(datagram) is TableReceived:
                event: Any = datagram
            elif datagram is None:
                if peer.wake_at != self.now:
                    continue
                peer.wake_at = math.inf
                due = peer.monitor.next_deadline()
                if due is not None and due > self.now:
                    self._arm(peer, due)
                    continue
                event = TICK
            else:
                event = DatagramReceived(sender, 1, datagram)
            self.events += 1
            self._carry_out(peer, peer.monitor.handle(self.now, event))
        self.now = end

    def _arm(self, peer: Peer, due: float | None) -> None:
        if due is not None and due < peer.wake_at:
            peer.wake_at = due
            self._sequence += 1
            heapq.heappush(self._heap, (due, self._sequence, peer, None, None))

    def _carry_out(self, peer: Peer, effects: Sequence[Any]) -> None:
        for effect in effects:
            if type(effect) is SendDatagram:
                self._send(peer, effect)
            elif type(effect) is AnnounceMember and effect.member.state is State.DEAD:
                self.deaths.setdefault(effect.member.name, {})[peer.name] = self.now
            elif type(effect) is CompareTables:
                self._compare(peer, self.peers[effect.target])
        self._arm(peer, peer.monitor.next_deadline())

    def _compare(self, peer: Peer, other: Peer) -> None:
        """Swaps the records that differ, weighed as two requests on a fresh connection."""
        if not other.up:
            return
        peer.sent_bytes += CONNECTION_BYTES
        other.sent_bytes += CONNECTION_BYTES
        mine, theirs = peer.monitor.table, other.monitor.table
        if mine.digest == theirs.digest:
            return
        assert isinstance(mine, SharedTable)
        assert isinstance(theirs, SharedTable)
        changed = dict.fromkeys((*mine.changed(), *theirs.changed()))
        parts = {exchange.bucket_of(name) for name in changed if mine.get(name) != theirs.get(name)}
        arrives_at = self.now + 4 * (DELAY_MIN_S + DELAY_MEAN_S)
        for source, target in ((peer, other), (other, peer)):
            updates = tuple(exchange.records(source.monitor.roster, parts, target.name))
            source.sent_bytes += exchange.DIGESTS.size + len(exchange.pack(updates))
            self._sequence += 1
            event = TableReceived(source.name, updates)
            heapq.heappush(self._heap, (arrives_at, self._sequence, target, None, event))

    def _send(self, peer: Peer, effect: SendDatagram) -> None:
        data = datagrams.encode(effect.datagram)
        self.datagrams += 1
        if self.datagrams % CHECKED_EVERY == 0:
            assert datagrams.decode(data) == effect.datagram
        peer.sent_bytes += len(data) + SEAL_BYTES + len(peer.name) + HEADER_BYTES
        if self.loss and self._rng.random() < self.loss:
            return
        arrives_at = self.now + DELAY_MIN_S - DELAY_MEAN_S * math.log(1.0 - self._rng.random())
        self._sequence += 1
        target = self.peers[effect.target]
        heapq.heappush(self._heap, (arrives_at, self._sequence, target, peer.name, effect.datagram))


TICK = Tick()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measurements of one run. Bytes are a node's bytes on the wire, with the headers of UDP and IP: at
    rest, from the first death until all know of every death (the mean and the busiest node), and over the
    whole run.
    """

    nodes: int
    failures: int
    probe_interval_s: float
    quiet_bytes_per_s: float
    failing_bytes_per_s: float
    busiest_bytes_per_s: float
    bytes_per_s: float
    known_to_all_s: tuple[float, ...]
    known_to_all_p50_s: float
    known_to_all_p99_s: float
    known_p99_s: float
    false_deaths: int
    simulated_s: float
    processor_s: float
    real_time_factor: float
    quiet_real_time_factor: float
    memory_mib: float


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def measure(nodes: int, failures: int, quiet_s: float, seed: int | str, config: MembershipConfig) -> Outcome:
    """Runs a group quietly, lets ``failures`` nodes die, and waits until all survivors know it.

    Raises:
        AssertionError: a survivor does not know after two minutes.
    """
    group = Group(nodes, config, seed)
    group.run(config.probe_interval_s)  # spreads the first round
    gc.collect()
    gc.freeze()
    before = sum(peer.sent_bytes for peer in group.peers.values())
    began, began_at = time.process_time(), group.now
    group.run(quiet_s)
    quiet_processor_s = time.process_time() - began
    marks = {peer.name: peer.sent_bytes for peer in group.peers.values()}
    quiet = (sum(marks.values()) - before) / nodes / quiet_s
    faults = random.Random(f"{seed}:faults")
    victims = faults.sample(list(group.peers), failures)
    crashed_at = {}
    for victim in victims:
        group.run(faults.uniform(0.0, 0.3))
        group.crash(victim)
        crashed_at[victim] = group.now
    survivors = nodes - failures
    first = min(crashed_at.values())
    while any(sum(group.peers[o].up for o in group.deaths[v]) < survivors for v in victims):
        assert group.now - first < DETECTION_MAX_S, f"seed {seed}: not everybody knows of {victims}"
        group.run(0.25)
    took = {
        v: [at - crashed_at[v] for o, at in group.deaths[v].items() if group.peers[o].up] for v in victims
    }
    all_known = [max(times) for times in took.values()]
    failing_s = group.now - first
    sent = [peer.sent_bytes - marks[peer.name] for peer in group.peers.values() if peer.up]
    processor_s = time.process_time() - began
    simulated_s = group.now - began_at
    return Outcome(
        nodes,
        failures,
        config.probe_interval_s,
        quiet,
        statistics.fmean(sent) / failing_s,
        max(sent) / failing_s,
        (quiet * quiet_s + statistics.fmean(sent)) / simulated_s,
        tuple(all_known),
        statistics.median(all_known),
        percentile(all_known, 0.99),
        percentile([t for times in took.values() for t in times], 0.99),
        len(set(group.deaths) - set(victims)),
        simulated_s,
        processor_s,
        simulated_s / processor_s,
        quiet_s / quiet_processor_s,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def main() -> None:
    """Runs one size and prints the measurements."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--failures", type=int, default=3)
    parser.add_argument("--quiet-s", type=float, default=10.0, help="simulated seconds before the failures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--probe-interval-s", type=float, help="default: 0.25 below 100 nodes, otherwise 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not 3 <= arguments.nodes <= 20_000 or not 0 < arguments.failures < arguments.nodes // 2:
        parser.error("between 3 and 20,000 nodes, and fewer than half of them may fail")
    config = LARGE if arguments.nodes >= LARGE_FROM else SMALL
    if arguments.probe_interval_s:
        config = replace(config, probe_interval_s=arguments.probe_interval_s)
    found = asdict(measure(arguments.nodes, arguments.failures, arguments.quiet_s, arguments.seed, config))
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main()
