"""Applies faults to machines: the lab's VMs, and any machine over SSH. (For the nodes of the local cluster,
see ``ops.faults.loopback``.)

All support the same faults as far as possible; an error names a fault that a kind of machine does not
support. In the lab, a crash is a power failure and a pause freezes a whole VM. Over SSH, both affect all
services of RainStorm on the machine, so that the machine stays reachable.
"""

from __future__ import annotations

import base64
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.common.errors import DeadlineExceeded, NotRunning, RainStormError, Unavailable
from ops.cluster.inventory import REPOSITORY, Inventory
from ops.faults import plan
from ops.faults.plan import Fault
from ops.lab import host
from ops.lab.errors import Unsupported
from ops.lab.lab import Lab

SCRIPT_TIMEOUT_S = 30.0
# As many threads as a cluster has nodes, because each only waits for another machine.
THREADS_MAX = 32


class Machines(ABC):
    """The machines of one cluster."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.addresses = {peer.name: peer.address for peer in inventory.peers}

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Returns the path of the records of faults."""

    @abstractmethod
    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Rejects a fault that these machines do not support, before anything changes.

        Raises:
            Unsupported, NeedsRoot, NotRunning: why.
        """

    @abstractmethod
    def scripts(self, fault: Fault) -> dict[str, str]:
        """Returns the script for each machine that applies a fault."""

    @abstractmethod
    def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
        """Applies a fault (only to some machines, if given); returns what failed, by machine."""

    @abstractmethod
    def crash(self, node: str) -> str:
        """Cuts the power of a machine; returns what was done."""

    @abstractmethod
    def start(self, node: str) -> str:
        """Starts a crashed machine; returns what was done."""

    @abstractmethod
    def pause(self, node: str) -> str:
        """Pauses a machine; returns what was done."""

    @abstractmethod
    def resume(self, node: str) -> str:
        """Resumes a paused machine; returns what was done."""

    @abstractmethod
    def stands(self, fault: Fault) -> bool:
        """Tells whether a crash or pause is still in force, as far as this can be seen from here."""

    @abstractmethod
    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Undoes everything; returns what was undone and what could not be, by machine."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connections to the machines."""


class ScriptedMachines(Machines):
    """Machines on which root can run a shell script."""

    @abstractmethod
    def run(self, node: str, script: str) -> tuple[int, str, str]:
        """Runs a script as root; returns its status, output and errors."""

    def scripts(self, fault: Fault) -> dict[str, str]:
        """Returns the script for each machine that applies a fault."""
        scripts = plan.vm_scripts(fault, self.addresses)
        if fault.kind == "delay":
            program = Path(__file__).with_name("delay.py").read_bytes()
            install = plan.delay_install_script(base64.b64encode(program).decode("ascii"))
            scripts = {node: install + script for node, script in scripts.items()}
        return scripts

    def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
        """Applies a fault (only to some machines, if given); returns what failed, by machine."""
        scripts = {node: text for node, text in self.scripts(fault).items() if not only or node in only}
        return self._on_all(scripts)[1]

    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Undoes everything; returns what was undone and what could not be, by machine."""
        return self._on_all(dict.fromkeys(self.addresses, plan.heal_script()))

    def close(self) -> None:
        """Does nothing: there are no connections."""

    def do(self, node: str, script: str) -> str:
        """Runs a script as root and returns what it printed.

        Raises:
            Unsupported: the machine does not support it.
            Unavailable: it failed.
        """
        status, out, err = self.run(node, script)
        words = " ".join(err.split()) or f"status {status}"
        if status == plan.UNSUPPORTED_STATUS:
            raise Unsupported(f"{node}: {words}", hint="fab fault.list")
        if status:
            raise Unavailable(f"{node}: {words}", hint="undo what was applied: fab fault.heal")
        return "; ".join(out.split("\n")).strip("; ")

    def _on_all(self, scripts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, RainStormError]]:
        done: dict[str, str] = {}
        failed: dict[str, RainStormError] = {}
        with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="faults") as pool:
            running = {node: pool.submit(self.do, node, script) for node, script in scripts.items()}
            for node, future in running.items():
                try:
                    done[node] = future.result()
                except RainStormError as error:
                    failed[node] = error
        return done, failed


class LabMachines(ScriptedMachines):
    """The VMs of a lab, reached through their namespaces, so that network faults cannot interfere."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(inventory)
        self.lab = Lab(inventory.lab)

    @property
    def folder(self) -> Path:
        """Returns the path of the records of faults."""
        return self.lab.folder

    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Rejects faults that the lab does not support."""
        host.require_root("a fault in the lab", f"fault.{kind} ...")
        if kind == "clock":
            raise Unsupported(
                "the VMs of a lab share this machine's clock, so the clock of one VM cannot be changed",
                hint="fab fault.clock works on real VMs: --inventory inventory/vms",
            )
        if kind in plan.NETWORK_KINDS or kind == "disk-full":
            for node in nodes:
                machine = self.lab.machine(node)
                if not machine.is_up() or machine.group.is_frozen():
                    state = "paused" if machine.is_up() else "down"
                    raise NotRunning(f"{node} is {state}", hint="heal it first: fab fault.heal")

    def run(self, node: str, script: str) -> tuple[int, str, str]:
        """Runs a script as root inside a VM."""
        first = self.lab.machine(node).group.first_process()
        if first is None:
            return 0, "", ""  # its power is off; the faults are applied when it starts
        try:
            done = subprocess.run(
                ["nsenter", "--target", str(first), "--all", "/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SCRIPT_TIMEOUT_S,
                env={"PATH": host.SEARCH_PATH, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(
                f"the fault could not be applied to {node} within {SCRIPT_TIMEOUT_S:g} s",
                hint="fab lab.status",
            ) from None
        return done.returncode, done.stdout, done.stderr

    def crash(self, node: str) -> str:
        """Kills every process of a VM at once.

        Its page cache belongs to this machine and survives, so data that was written but not synced is not
        lost.
        """
        machine = self.lab.machine(node)
        if not machine.is_up():
            raise NotRunning(f"{node} is down", hint=f"start it: fab fault.start --vm {node[2:]}")
        return f"power cut, {machine.power_off()} processes killed"

    def start(self, node: str) -> str:
        """Boots a VM."""
        self.lab.start(node)
        return "up again"

    def pause(self, node: str) -> str:
        """Freezes every process of a VM."""
        return self._freeze(node, True, "processes paused")

    def resume(self, node: str) -> str:
        """Thaws a VM."""
        return self._freeze(node, False, "processes resumed")

    def _freeze(self, node: str, frozen: bool, words: str) -> str:
        machine = self.lab.machine(node)
        if not machine.is_up():
            raise NotRunning(f"{node} is down", hint=f"start it: fab fault.start --vm {node[2:]}")
        machine.group.freeze(frozen)
        return f"{len(machine.group.processes())} {words}"

    def stands(self, fault: Fault) -> bool:
        """Tells whether a crash or pause is still in force."""
        machine = self.lab.machine(fault.nodes[0])
        return not machine.is_up() if fault.kind == "crash" else machine.group.is_frozen()

    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Thaws the VMs, undoes everything inside them, and starts those whose power is off."""
        host.require_root("healing the lab", "fault.heal")
        done: dict[str, str] = {}
        failed: dict[str, RainStormError] = {}
        machines = [self.lab.machine(node) for node in self.addresses]
        for machine in machines:
            if machine.is_up() and machine.group.is_frozen():
                machine.group.freeze(False)
                done[machine.vm] = "resumed"
        inside, failed = super().heal()
        for node, words in inside.items():
            done[node] = "; ".join(filter(None, [done.get(node, ""), words]))
        for machine in machines:
            if not machine.is_up():
                try:
                    done[machine.vm] = self.start(machine.vm)
                except RainStormError as error:
                    failed[machine.vm] = error
        return done, failed


class SshMachines(ScriptedMachines):
    """Any machines that are reached over SSH and on which the operator may use sudo."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(inventory)
        from ops.cluster.ssh import Ssh

        self._ssh = Ssh(inventory.logins)

    @property
    def folder(self) -> Path:
        """Returns the path of the records of faults."""
        return REPOSITORY / ".rainstorm" / self.inventory.cluster

    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Rejects nothing, because the machine itself reports what it does not support."""

    def run(self, node: str, script: str) -> tuple[int, str, str]:
        """Runs a script as root on a machine."""
        done = self._ssh.run(node, ["/bin/sh", "-c", script], timeout_s=SCRIPT_TIMEOUT_S, root=True)
        return done.status, done.out, done.err

    def crash(self, node: str) -> str:
        """Kills all services of RainStorm on a machine and keeps them down."""
        self.do(node, plan.crash_script())
        return "all services of RainStorm were killed; the machine itself stays up"

    def start(self, node: str) -> str:
        """Starts the services again."""
        self.do(node, f"failed=0\n{plan.start_script()}\nexit $failed")
        return "in service again"

    def pause(self, node: str) -> str:
        """Stops the processes of all services of a machine."""
        self.do(node, plan.pause_script())
        return "all services of RainStorm were paused; systemd's watchdog will eventually restart them"

    def resume(self, node: str) -> str:
        """Resumes the services."""
        self.do(node, f"failed=0\n{plan.resume_script()}\nexit $failed")
        return "all services resumed"

    def stands(self, fault: Fault) -> bool:
        """Trusts the records, because checking would take a connection to each machine."""
        return True

    def close(self) -> None:
        """Closes the SSH sessions."""
        self._ssh.close()
