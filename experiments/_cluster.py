"""A cluster of membership agents only, on loopback addresses and in its own temporary folder.

The other agents of a node are left out: they send no failure detection traffic, and a quiet machine gives
better measurements. Signals imitate the failures of a machine: SIGSTOP makes a node silent (its address still
accepts datagrams, and no connection is refused), SIGKILL crashes it.

What the agents see is read from their event streams, with one follower thread per node. Events carry the
observer's own timestamp. All agents run on this machine, so wall-clock times are converted to monotonic times
with the offset between the two clocks; a run during which that offset changes is rejected.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, RainStormError, Unavailable
from agent.common.shell import clock
from agent.membership.client import MemberChanged, MembershipClient, MembersReply, ViewChanged
from agent.wire.client import Client
from experiments._variants import Variant
from ops.cluster import inventory
from ops.local.layout import Layout
from ops.machine import processes

READY_TIMEOUT_S = 30.0
CALM_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 3.0
POLL_INTERVAL_S = 0.02
LONG_POLL_S = 0.5
CLOCK_STEP_S_MAX = 0.005
ADDRESSES_EACH = 16
_cancelled = threading.Event()


class Cancelled(RainStormError):
    """Another thread of the experiment has failed or was interrupted."""

    code = "CANCELLED"


def pause(seconds: float) -> None:
    """Lets time pass according to an experiment's schedule; never used to wait for an event.

    Raises:
        Cancelled: the experiment has ended for all its threads.
    """
    if _cancelled.wait(seconds):
        raise Cancelled("the experiment was cancelled")


def cancel() -> None:
    """Ends every ``pause`` in every thread, so that each thread cleans up what it has started."""
    _cancelled.set()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one node saw happen to another, on the machine's monotonic clock. For a view, ``name`` lists all
    nodes that are up in it.
    """

    at: float
    observer: str
    kind: str
    name: str
    by: str


class MembershipCluster:
    """Starts N membership agents, injects faults, and collects what they see."""

    def __init__(self, nodes: int, *, slot: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        self.seen: list[Seen] = []
        self.lost_events = 0
        self._changed = threading.Condition()
        self._folder = Path(tempfile.mkdtemp(prefix="rs-exp-"))
        overrides = {"membership": dict(settings)} if settings else {}
        self._layout = Layout(self._folder, self._folder / "inventory", own_address(slot), overrides)
        self._nodes = nodes
        self._addresses = {peer.name: peer.address for peer in self._layout.peers(nodes)}
        self.names = list(self._addresses)
        self._client = Client(None)
        self._agents: dict[str, psutil.Process] = {}
        self._lives: dict[str, int] = {}
        self._stopping = threading.Event()
        self._followers: list[threading.Thread] = []
        self._offset_s = clock.wall() - clock.monotonic()

    def __enter__(self) -> MembershipCluster:
        try:
            self._layout.prepare(self._nodes)
            self.start(self.names)
            self._followers = [
                threading.Thread(target=self._follow, args=(name,), name=f"follow-{name}", daemon=True)
                for name in self.names
            ]
            for thread in self._followers:
                thread.start()
        except BaseException:  # even an interrupt must leave nothing running
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops every process and thread and removes the folder."""
        self._stopping.set()
        try:
            processes.terminate_all(lambda: processes.marked(self._folder), lambda each: True, STOP_TIMEOUT_S)
        finally:
            for process in self._agents.values():
                with contextlib.suppress(psutil.Error):
                    process.wait(timeout=0)  # collect the exit status
            for thread in self._followers:
                if thread.ident is not None:
                    thread.join(2 * LONG_POLL_S + STOP_TIMEOUT_S)
            self._client.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    # The agents

    def start(self, names: Iterable[str]) -> None:
        """Starts agents and returns when each one answers requests.

        Raises:
            Unavailable: an agent ended.
            DeadlineExceeded: an agent is not ready in time.
        """
        for name in names:
            self._lives[name] = self._lives.get(name, 0) + 1
            config = str(self._layout.config_path(name))
            command = [sys.executable, "-m", "agent", "membership", "--config", config]
            log = self._layout.log_path(name, "membership")
            self._agents[name] = processes.start(command, self._folder, name, log, inventory.REPOSITORY)
        for name in names:
            self._await(functools.partial(self._answers, name), READY_TIMEOUT_S, f"{name} answers requests")

    def address(self, name: str) -> str:
        """Returns the loopback address of a node."""
        return self._addresses[name]

    def process(self, name: str) -> psutil.Process:
        """Returns the process of a node's agent."""
        return self._agents[name]

    def spin(self, name: str, processor: int) -> psutil.Process:
        """Starts a busy loop on one processor, which ends no later than the cluster."""
        command = [sys.executable, "-c", "while True: pass"]
        log = self._layout.log_path(name, "spin")
        loop = processes.start(command, self._folder, name, log, inventory.REPOSITORY)
        loop.cpu_affinity([processor])
        return loop

    def members(self, name: str) -> MembersReply:
        """Returns what a node believes."""
        return self._ask(name).members()

    def switch(self, variant: Variant) -> None:
        """Makes all nodes use this variant and returns when they do."""

        def chosen() -> bool:
            found = [self.members(name).settings for name in self.names]
            return all(Variant(each.detector, each.suspicion) == variant for each in found)

        if not chosen():
            self._ask(self.names[0]).switch(variant.detector, variant.suspicion)
            self._await(chosen, CALM_TIMEOUT_S, f"all nodes use {variant}")

    def drop(self, percent: float, seed: int) -> None:
        """Makes every node drop this share of the datagrams that reach it."""
        for index, name in enumerate(self.names):
            self._ask(name).drop(percent, seed + index)

    def signal(self, names: Iterable[str], number: signal.Signals) -> None:
        """Sends a signal to the agents of these nodes, in quick succession."""
        for name in names:
            self._agents[name].send_signal(number)

    def recover(self, names: Sequence[str]) -> None:
        """Resumes stopped nodes and restarts killed ones."""
        killed = []
        for name in names:
            process = self._agents[name]
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(signal.SIGCONT)
            else:
                process.wait(timeout=STOP_TIMEOUT_S)
                killed.append(name)
        self.start(killed)

    def wait_calm(self) -> float:
        """Returns how long it took until every node believed all others alive and itself healthy.

        Raises:
            DeadlineExceeded: this took longer than ``CALM_TIMEOUT_S``.
        """
        began = clock.monotonic()
        self._await(self._is_calm, CALM_TIMEOUT_S, "all nodes are alive in all lists")
        return clock.monotonic() - began

    def wait_all_up(self, timeout_s: float) -> float:
        """Returns how long it took until every node believed all alive and had a view in which all are up.

        Raises:
            DeadlineExceeded: this took too long.
        """
        began = clock.monotonic()
        self._await(self._are_all_up, timeout_s, "all nodes are alive in all lists and up in all views")
        return clock.monotonic() - began

    def _are_all_up(self) -> bool:
        for name in self.names:
            found = self.members(name)
            alive = [member for member in found.members if member.state == "alive"]
            if len(alive) < self._nodes or len(found.view.up_names()) < self._nodes:
                return False
        return True

    def _is_calm(self) -> bool:
        for name in self.names:
            found = self.members(name)
            alive = [member for member in found.members if member.state == "alive"]
            if len(alive) < self._nodes or found.health > 0:
                return False
        return True

    def _answers(self, name: str) -> bool:
        process = self._agents[name]
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            log = self._layout.log_path(name, "membership")
            tail = "\n    ".join(log.read_text("utf-8", "replace").splitlines()[-8:])
            raise Unavailable(f"the membership agent of {name} ended while starting\n    {tail}")
        try:
            self.members(name)
        except RainStormError:
            return False
        return True

    def _ask(self, name: str, timeout_s: float = 5.0) -> MembershipClient:
        path = str(self._layout.node_folder(name) / "run" / "membership.sock")
        return MembershipClient(self._client, path, timeout_s=timeout_s)

    def _await(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = Deadline(clock.monotonic(), timeout_s)
        while not holds():
            if deadline.expired(clock.monotonic()):
                raise DeadlineExceeded(
                    f"after {timeout_s:g} s this is still not true: {what}",
                    hint="the machine may be overloaded; check with: uptime",
                )
            pause(POLL_INTERVAL_S)

    # What they see

    def forget(self) -> None:
        """Discards what was seen so far."""
        self.check_clock()
        with self._changed:
            self.seen.clear()

    def await_seen(self, holds: Callable[[list[Seen]], bool], timeout_s: float) -> bool:
        """Returns True as soon as ``holds`` is true of what was seen, or False after ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: holds(self.seen), timeout_s)

    def snapshot(self) -> list[Seen]:
        """Returns what was seen since the last ``forget``, in the order in which it happened."""
        self.check_clock()
        with self._changed:
            return sorted(self.seen, key=lambda each: each.at)

    def check_clock(self) -> None:
        """Raises Unavailable if the wall clock was set, because the events' timestamps rely on it."""
        step_s = clock.wall() - clock.monotonic() - self._offset_s
        if abs(step_s) > CLOCK_STEP_S_MAX:
            raise Unavailable(
                f"the wall clock was set by {step_s * 1000:+.1f} ms during the experiment",
                hint="run it again once the machine's clock is synchronised",
            )

    def _follow(self, name: str) -> None:
        last: int | None = None
        life = self._lives[name]
        while not self._stopping.is_set():
            if life != self._lives[name]:  # a restarted agent numbers its events from one again
                life, last = self._lives[name], 0
            try:
                client = self._ask(name)
                if last is None:
                    last = client.events(0, 0.0).last
                found = client.events(last, LONG_POLL_S)
            except RainStormError:  # it is stopped, killed or starting up
                self._stopping.wait(0.1)
                continue
            last = found.last
            events = [
                self._seen(name, event)
                for event in found.events
                if isinstance(event, MemberChanged | ViewChanged)
            ]
            with self._changed:
                self.lost_events += found.missed
                self.seen += events
                self._changed.notify_all()

    def _seen(self, observer: str, event: MemberChanged | ViewChanged) -> Seen:
        # For a view, the names of the nodes that are up take the place of the single name in other events.
        name = " ".join(event.up) if isinstance(event, ViewChanged) else event.name
        by = event.by if isinstance(event, MemberChanged) else ""
        return Seen(event.wall_at - self._offset_s, observer, event.kind, name, by)


def false_deaths(seen: Sequence[Seen], guilty: Iterable[str] = ()) -> tuple[int, int]:
    """Counts false deaths, given what was seen in chronological order.

    A death lasts from when the first observer believes a node dead until no observer does. So what ten
    observers learn from one another is one death and ten reports.

    Returns:
        The deaths and the reports of nodes that are not ``guilty``.
    """
    excused = frozenset(guilty)
    holders: dict[str, set[str]] = {}
    deaths = reports = 0
    for each in seen:
        if each.name in excused:
            continue
        held = holders.setdefault(each.name, set())
        if each.kind == "dead" and each.observer not in held:
            reports += 1
            deaths += not held
            held.add(each.observer)
        elif each.kind in ("join", "refute"):
            held.discard(each.observer)
    return deaths, reports


def own_address(slot: int) -> str:
    """Returns a loopback address followed by fifteen free ones; tests and local clusters use others."""
    number = os.getpid() * 4 + slot
    first = ipaddress.IPv4Address("127.225.0.1")
    return str(first + ADDRESSES_EACH * (number % 100_000))
