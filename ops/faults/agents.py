"""Kills, stops and starts single agents of single nodes.

On a VM an agent is a systemd unit, controlled over SSH, which systemd restarts after a crash. In the local
cluster an agent is a process that stays down until it is started.
"""

from __future__ import annotations

import difflib
import signal

from agent.common.errors import Unavailable, UsageError
from ops.cluster.inventory import Inventory
from ops.cluster.ssh import Ssh
from ops.local.cluster import SERVICES, LocalCluster
from ops.local.layout import Layout

# The signals that are useful for an agent; for anything else there is a separate task.
SIGNALS = ("KILL", "TERM", "INT", "HUP", "ABRT", "STOP", "CONT")
SYSTEMCTL_TIMEOUT_S = 60.0


class Agents:
    """The agents of one cluster; close it after use."""

    def __init__(self, inventory: Inventory) -> None:
        self._local: LocalCluster | None = None
        if inventory.local_folder is not None:
            first = inventory.peers[0].address
            self._local = LocalCluster(Layout(inventory.local_folder, inventory.path, first))
        self._ssh = Ssh(inventory.logins)

    def close(self) -> None:
        """Closes the SSH sessions."""
        self._ssh.close()

    def kill(self, node: str, service: str, number: signal.Signals) -> str:
        """Sends a signal to an agent; returns what was done.

        Raises:
            NotRunning: it is not running.
            Unavailable: systemd reports an error.
        """
        if self._local is not None:
            pid = self._local.signal_agent(node, service, number)
            return f"{number.name} sent to {service} of {node} (pid {pid})"
        self._systemctl(node, "kill", "-s", number.name, f"rainstorm-{service}.service")
        return f"{number.name} sent to rainstorm-{service}.service of {node}"

    def start(self, node: str, service: str) -> str:
        """Starts an agent; returns what was done, once it is ready.

        Raises:
            AlreadyRunning: it is already running (local cluster).
            Unavailable: systemd could not start it.
        """
        if self._local is not None:
            self._local.start_agent(node, service)
        else:
            self._systemctl(node, "start", f"rainstorm-{service}.service", forget=True)
        return f"{service} of {node} is up"

    def restart(self, node: str, service: str) -> str:
        """Stops an agent in an orderly way and starts it; returns what was done, once it is ready.

        Raises:
            NotRunning: it is not running (local cluster).
            Unavailable: systemd could not start it.
        """
        if self._local is not None:
            self._local.signal_agent(node, service, signal.SIGTERM)
            self._local.start_agent(node, service)
        else:
            self._systemctl(node, "restart", f"rainstorm-{service}.service", forget=True)
        return f"{service} of {node} is up again"

    def _systemctl(self, node: str, *words: str, forget: bool = False) -> None:
        if forget:  # systemd refuses to start a unit that crashed too often until this; it never hurts
            self._ssh.run(node, ["systemctl", "reset-failed", words[-1]], root=True)
        done = self._ssh.run(node, ["systemctl", *words], timeout_s=SYSTEMCTL_TIMEOUT_S, root=True)
        if done.status:
            said = " ".join(done.err.split()) or f"status {done.status}"
            raise Unavailable(
                f"{node}: systemctl {' '.join(words)}: {said}",
                hint=f"look at the unit: {self._ssh.login(node).command()} systemctl status {words[-1]}",
            )


def check_service(service: str) -> str:
    """Returns the name of a service.

    Raises:
        UsageError: there is no service of this name.
    """
    if service in SERVICES:
        return service
    near = difflib.get_close_matches(service, SERVICES, n=1)
    raise UsageError(
        f"there is no agent {service!r}" if service else "no agent was named",
        hint=f"did you mean --service {near[0]}?" if near else f"--service is one of {', '.join(SERVICES)}",
    )


def check_signal(name: str) -> signal.Signals:
    """Returns a signal from its name with or without SIG, or from its number.

    Raises:
        UsageError: it is not one of the useful signals.
    """
    bare = name.upper().removeprefix("SIG")
    found = next((each for each in SIGNALS if bare in (each, str(int(signal.Signals[f"SIG{each}"])))), None)
    if found is None:
        raise UsageError(f"unknown signal {name!r}", hint=f"--signal is one of {', '.join(SIGNALS)}")
    return signal.Signals[f"SIG{found}"]
