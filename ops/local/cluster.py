"""The local cluster: vm1 ... vmN as plain processes on 127.0.0.1, .2, ..., without root.

Each node runs four agents (membership, hydfs, rainstorm, logs), each a process with its own session and log
file. ``up`` checks everything that can be checked before it changes anything, starts all agents at once, and
returns when each agent reports that it is ready and the agreed view shows every node up. ``down`` works on a
complete, half-started or half-dead cluster alike, because it finds processes by their mark
(``ops.machine.processes``) and not by recorded state. ``crash``, ``start``, ``pause`` and ``resume`` imitate
the failures of a machine.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import psutil

from agent.common.config import PeerConfig
from agent.common.deadline import Deadline
from agent.common.errors import (
    AlreadyRunning,
    DeadlineExceeded,
    Internal,
    NotFound,
    NotRunning,
    RainStormError,
    Unavailable,
)
from agent.common.shell import clock
from agent.membership.client import MembershipClient, MembersReply
from agent.wire.client import Client
from ops.cluster import inventory
from ops.local.layout import Layout
from ops.machine import processes
from ops.machine.locks import exclusive
from ops.machine.ports import refuse_taken_ports
from ops.machine.processes import MarkedProcess

SERVICES = ("membership", "hydfs", "rainstorm", "logs")
NODES_DEFAULT = 5
START_TIMEOUT_S = 30.0
# A clean stop only saves a recovery, so whatever takes longer is killed.
STOP_TIMEOUT_S = 8.0
POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 15


def default_layout() -> Layout:
    """Returns the layout of the checkout's own local cluster."""
    return Layout(inventory.LOCAL_FOLDER, inventory.LOCAL_INVENTORY, inventory.LOCAL_ADDRESS)


def demo_layout() -> Layout:
    """Returns the layout of the demo's cluster, which has its own folder but the same addresses."""
    folder = inventory.LOCAL_FOLDER / "demo"
    return Layout(folder, folder / "inventory", inventory.LOCAL_ADDRESS)


def only_demo() -> contextlib.AbstractContextManager[None]:
    """Returns the lock on the demo's cluster; entering it raises AlreadyRunning while a demo runs."""
    return exclusive(
        inventory.LOCAL_FOLDER / "demo" / "demo.lock", "another demo is running", "wait until it ends"
    )


class LocalCluster:
    """Starts, stops and breaks the nodes of one local cluster."""

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or default_layout()
        self._children: list[psutil.Process] = []

    def up(self, nodes: int | None = None, *, fresh: bool = False) -> list[PeerConfig]:
        """Starts all nodes and returns them when the cluster is ready for use.

        Raises:
            AlreadyRunning: processes of this cluster exist.
            PortInUse: an address that an agent needs is taken.
            DeadlineExceeded: the cluster does not become ready; it is stopped again.
        """
        with self._locked():
            self._refuse_when_running()
            known = int(self.layout.read_state().get("nodes", 0))
            count = nodes if nodes is not None else known or NODES_DEFAULT
            self.layout.check(count, keeps_data=not fresh)
            peers = self.layout.peers(count)
            for peer in peers:
                refuse_taken_ports(peer)
            if fresh:
                self.layout.wipe()
            self.layout.prepare(count)
            self.layout.write_state({"nodes": count, "agents": {}})
            try:
                self._start_agents(
                    [peer.name for peer in peers], Deadline(clock.monotonic(), START_TIMEOUT_S)
                )
            except BaseException:  # even an interrupt must leave nothing running
                self._stop()
                raise
        return list(peers)

    def down(self, *, wipe: bool = False) -> dict[str, Any]:
        """Stops everything that belongs to the cluster and reports what it did."""
        with self._locked():
            ended, killed = self._stop()
            if wipe:
                self.layout.wipe()
        return {"ended": ended, "killed": killed, "wiped": wipe}

    def running(self) -> bool:
        """Tells whether any process of the cluster exists."""
        return bool(processes.marked(self.layout.folder))

    def processes(self, node: str | None = None) -> list[MarkedProcess]:
        """Returns the live processes of the cluster or of one node."""
        return processes.marked(self.layout.folder, node)

    def names(self) -> list[str]:
        """Returns the names of the cluster's nodes."""
        return [peer.name for peer in self.layout.peers(int(self.layout.read_state().get("nodes", 0)))]

    def crash(self, node: str) -> int:
        """Kills every process of a node at once, as a power failure would; returns the number of processes.

        Raises:
            NotRunning: the node has no processes.
        """
        self._check_node(node)
        if not self.processes(node):
            raise NotRunning(f"{node} is not running", hint=f"start it: fab fault.start --vm {node[2:]}")
        # Stop all of them first, so that no process sees another one die.
        processes.signal_all(self.processes(node), signal.SIGSTOP)
        killed = processes.kill_all(lambda: self.processes(node))
        self._reap()
        return killed

    def start(self, node: str) -> None:
        """Starts a node that is down.

        Raises:
            AlreadyRunning: it has live processes.
            PortInUse: an address it needs is taken.
        """
        self._check_node(node)
        with self._locked():
            if any(_is_agent(each) for each in self.processes(node)):
                raise AlreadyRunning(f"{node} is already running", hint=f"fab fault.crash --vm {node[2:]}")
            processes.kill_all(lambda: self.processes(node))  # tasks orphaned by a killed agent
            peer = next(peer for peer in self.layout.peers(len(self.names())) if peer.name == node)
            refuse_taken_ports(peer)
            self._start_agents([node], Deadline(clock.monotonic(), START_TIMEOUT_S))

    def signal_agent(self, node: str, service: str, number: signal.Signals) -> int:
        """Sends a signal to one agent of a node and returns its process id; waits if the signal ends it.

        Raises:
            NotRunning: there is no such process.
        """
        found = self._agent(node, service)
        if found is None:
            raise NotRunning(
                f"the agent {service} of {node} is not running",
                hint=f"start it: fab start-agent --vm {node[2:]} --service {service}",
            )
        processes.signal_all([found], number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            deadline = Deadline(clock.monotonic(), STOP_TIMEOUT_S)
            while self._agent(node, service) is not None:
                if deadline.expired(clock.monotonic()):
                    raise DeadlineExceeded(
                        f"the agent {service} of {node} (process {found.pid}) is still running "
                        f"{STOP_TIMEOUT_S:g} s after {number.name}",
                        hint=f"fab kill-agent --vm {node[2:]} --service {service}",
                    )
                _pause(POLL_INTERVAL_S)
            self._reap()
        return found.pid

    def start_agent(self, node: str, service: str) -> None:
        """Starts one agent of a node and returns when it is ready.

        Raises:
            AlreadyRunning: it has a live process.
        """
        with self._locked():
            if self._agent(node, service) is not None:
                raise AlreadyRunning(
                    f"the agent {service} of {node} is already running",
                    hint=f"fab restart-agent --vm {node[2:]} --service {service}",
                )
            self._start_agents([node], Deadline(clock.monotonic(), START_TIMEOUT_S), [service])

    def _agent(self, node: str, service: str) -> MarkedProcess | None:
        self._check_node(node)
        return next((each for each in self.processes(node) if _is_agent(each, (service,))), None)

    def pause(self, node: str) -> int:
        """Stops every process of a node (SIGSTOP); returns the number of processes."""
        return self._signal(node, signal.SIGSTOP)

    def resume(self, node: str) -> int:
        """Resumes a paused node; returns the number of its processes."""
        return self._signal(node, signal.SIGCONT)

    def members(self, node: str) -> MembersReply:
        """Returns the members and the view as a node sees them, through its local socket."""
        client = Client(None)
        try:
            path = str(self.layout.node_folder(node) / "run" / "membership.sock")
            return MembershipClient(client, path).members()
        finally:
            client.close()

    def wait_up(self, names: Sequence[str], timeout_s: float) -> None:
        """Returns when the view shows every named node up.

        Raises:
            DeadlineExceeded: some node is still not up after ``timeout_s``.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        while True:
            missing = self._not_up(names)
            if not missing:
                return
            if deadline.expired(clock.monotonic()):
                raise DeadlineExceeded(
                    f"after {timeout_s:g} s the view does not show {', '.join(missing)} up\n"
                    + self._tail(missing[0], "membership"),
                    hint=f"the logs are in {self.layout.node_folder(missing[0]) / 'logs'}",
                )
            _pause(POLL_INTERVAL_S)

    def _not_up(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self._is_up(name)]

    def _is_up(self, name: str) -> bool:
        try:
            found = self.members(name)
        except RainStormError:
            return False
        # After a restart the view may still show the node's previous boot.
        node_id = next((each.node_id for each in found.members if each.name == name), None)
        known = found.view.nodes.get(name)
        current = known is not None and known.state == "up" and known.node_id == node_id
        return current and bool(found.view.leader)

    def _start_agents(
        self, names: Sequence[str], deadline: Deadline, services: Sequence[str] = SERVICES
    ) -> None:
        waiting: dict[tuple[str, str], tuple[psutil.Process, int]] = {}
        state = self.layout.read_state()
        for service in services:
            for name in names:
                log = self.layout.log_path(name, service)
                offset = log.stat().st_size if log.exists() else 0
                config = str(self.layout.config_path(name))
                command = [sys.executable, "-m", "agent", service, "--config", config]
                process = processes.start(command, self.layout.folder, name, log, inventory.REPOSITORY)
                self._children.append(process)
                waiting[name, service] = (process, offset)
                state["agents"].setdefault(name, {})[service] = {
                    "pid": process.pid,
                    "started_at": process.create_time(),
                }
        self.layout.write_state(state)
        while waiting:
            for key, (process, offset) in list(waiting.items()):
                if self._is_ready(*key, process, offset):
                    del waiting[key]
            if waiting and deadline.expired(clock.monotonic()):
                name, service = next(iter(waiting))
                raise DeadlineExceeded(
                    f"{service} of {name} is not ready after {START_TIMEOUT_S:g} s\n"
                    + self._tail(name, service),
                    hint=f"read its log: {self.layout.log_path(name, service)}",
                )
            _pause(POLL_INTERVAL_S)
        self.wait_up(names, max(1.0, deadline.remaining(clock.monotonic())))

    def _is_ready(self, node: str, service: str, process: psutil.Process, offset: int) -> bool:
        log = self.layout.log_path(node, service)
        with open(log, "rb") as file:
            # The agent rotates a full log and begins a new one.
            file.seek(offset if log.stat().st_size >= offset else 0)
            if any(line.startswith(b"ready service=") for line in file):
                return True
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise Unavailable(
                f"{service} of {node} ended while starting\n" + self._tail(node, service),
                hint=f"read its log: {log}",
            )
        return False

    def _tail(self, node: str, service: str) -> str:
        log = self.layout.log_path(node, service)
        if not log.exists():
            return f"    (no log at {log})"
        lines = log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"    {service}@{node}: {line}" for line in lines) or "    (its log is empty)"

    def _stop(self) -> tuple[int, int]:
        try:
            done = processes.terminate_all(self.processes, _is_agent, STOP_TIMEOUT_S)
        except TimeoutError as error:
            raise Internal(str(error), hint="inspect them with: ps -o pid,stat,wchan,cmd -p PID") from None
        self._reap()
        state = self.layout.read_state()
        if state:
            self.layout.write_state({**state, "agents": {}})
        return done

    def _reap(self) -> None:
        """Collects the ended children of this process, so that no zombie stays."""
        left = []
        for child in self._children:
            try:
                child.wait(timeout=0)
            except psutil.TimeoutExpired:
                left.append(child)
        self._children = left

    def _signal(self, node: str, number: signal.Signals) -> int:
        self._check_node(node)
        sent = processes.signal_all(self.processes(node), number)
        if not sent:
            raise NotRunning(f"{node} is not running", hint=f"start it: fab fault.start --vm {node[2:]}")
        return sent

    def _check_node(self, node: str) -> None:
        if node not in self.names():
            raise NotFound(
                f"the local cluster has no node {node!r}; it has {', '.join(self.names()) or 'no nodes'}",
                hint="fab status",
            )

    def _refuse_when_running(self) -> None:
        found = self.processes()
        if found:
            nodes = sorted({each.node for each in found})
            raise AlreadyRunning(
                f"the local cluster in {self.layout.folder} is already running "
                f"({len(found)} processes, nodes {', '.join(nodes)})",
                hint="inspect it: fab status   stop it: fab local.down",
            )

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(
            self.layout.folder / "lock",
            f"another command is starting or stopping the cluster in {self.layout.folder}",
            "wait until it has finished, then try again",
        )


def _is_agent(each: MarkedProcess, services: Sequence[str] = SERVICES) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        command = each.process.cmdline()
        return "agent" in command and any(service in command for service in services)
    return False


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
