"""The machines that faults happen to: the lab's VMs and any machine over SSH (the local cluster's nodes:
``ops.faults.loopback``).

All put the same faults into force, as far as they have the means; what a kind of machine cannot do is refused
by name. In the lab a crash is a power failure and a pause stops a whole VM; over SSH both hit all
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
from ops.faults import plan
from ops.faults.plan import Fault
from ops.inventory import REPOSITORY, Inventory
from ops.lab import host
from ops.lab.errors import Unsupported
from ops.lab.lab import Lab

SCRIPT_TIMEOUT_S = 30.0
# As many as a cluster has nodes: each thread only waits for another machine.
THREADS_MAX = 32


class Machines(ABC):
    """The machines of one cluster."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.addresses = {peer.name: peer.address for peer in inventory.peers}

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Returns where the journal of faults is kept."""

    @abstractmethod
    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Refuses a fault that these machines have no means for, before anything changes.

        Raises:
            Unsupported, NeedsRoot, NotRunning: why.
        """

    @abstractmethod
    def scripts(self, fault: Fault) -> dict[str, str]:
        """Returns what is run on each machine to put a fault into force."""

    @abstractmethod
    def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
        """Puts a fault into force (on some machines only); returns what failed, by machine."""

    @abstractmethod
    def crash(self, node: str) -> str:
        """Cuts the power of a machine; returns what was done."""

    @abstractmethod
    def start(self, node: str) -> str:
        """Starts a crashed machine; returns what was done."""

    @abstractmethod
    def pause(self, node: str) -> str:
        """Stops the time of a machine; returns what was done."""

    @abstractmethod
    def resume(self, node: str) -> str:
        """Lets a paused machine go on; returns what was done."""

    @abstractmethod
    def stands(self, fault: Fault) -> bool:
        """Tells whether a crash or pause is still in force, as far as it can be told from here."""

    @abstractmethod
    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Undoes everything; returns what was undone and what could not be, by machine."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connections to the machines."""


class ScriptedMachines(Machines):
    """Machines on which root can run a shell script."""

    @abstractmethod
    def run(self, node: str, script: str) -> tuple[int, str, str]:
        """Runs a script as root; returns its status, output and errors."""

    def scripts(self, fault: Fault) -> dict[str, str]:
        """Returns what is run on each machine to put a fault into force."""
        scripts = plan.vm_scripts(fault, self.addresses)
        if fault.kind == "delay":
            program = Path(__file__).with_name("delay.py").read_bytes()
            install = plan.delay_install_script(base64.b64encode(program).decode("ascii"))
            scripts = {node: install + script for node, script in scripts.items()}
        return scripts

    def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
        """Puts a fault into force (on some machines only); returns what failed, by machine."""
        scripts = {node: text for node, text in self.scripts(fault).items() if not only or node in only}
        return self._on_all(scripts)[1]

    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Undoes everything; returns what was undone and what could not be, by machine."""
        return self._on_all(dict.fromkeys(self.addresses, plan.heal_script()))

    def close(self) -> None:
        """There are no connections."""

    def do(self, node: str, script: str) -> str:
        """Runs a script as root and returns what it printed.

        Raises:
            Unsupported: the machine has no means for it.
            Unavailable: it failed.
        """
        status, out, err = self.run(node, script)
        words = " ".join(err.split()) or f"status {status}"
        if status == plan.UNSUPPORTED_STATUS:
            raise Unsupported(f"{node}: {words}", hint="fab fault.list")
        if status:
            raise Unavailable(f"{node}: {words}", hint="undo what was done: fab fault.heal")
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
    """The VMs of a lab, reached through their name spaces: no fault of the network is in the way."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(inventory)
        self.lab = Lab(inventory.lab)

    @property
    def folder(self) -> Path:
        """Returns where the journal of faults is kept."""
        return self.lab.folder

    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Refuses what the lab cannot do."""
        host.require_root("a fault in the lab", f"fault.{kind} ...")
        if kind == "clock":
            raise Unsupported(
                "the VMs of a lab share this machine's clock, so one alone cannot be wrong",
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
            return 0, "", ""  # it has no power; what is to be in force is put into force when it starts
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
                f"{node} did not take the fault within {SCRIPT_TIMEOUT_S:g} s", hint="fab lab.status"
            ) from None
        return done.returncode, done.stdout, done.stderr

    def crash(self, node: str) -> str:
        """Kills every process of a VM at once.

        Its page cache is this machine's and survives: what was written but not synced is not lost.
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
        """Thaws, undoes everything inside the VMs, starts those without power."""
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
    """Any machines, reached over SSH; the operator may use sudo there."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(inventory)
        from ops.ssh import Ssh

        self._ssh = Ssh(inventory.logins)

    @property
    def folder(self) -> Path:
        """Returns where the journal of faults is kept."""
        return REPOSITORY / ".rainstorm" / self.inventory.cluster

    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Refuses nothing: a machine itself tells what it cannot do."""

    def run(self, node: str, script: str) -> tuple[int, str, str]:
        """Runs a script as root on a machine."""
        done = self._ssh.run(node, ["/bin/sh", "-c", script], timeout_s=SCRIPT_TIMEOUT_S, root=True)
        return done.status, done.out, done.err

    def crash(self, node: str) -> str:
        """Kills all services of RainStorm on a machine and keeps them down."""
        self.do(node, plan.crash_script())
        return "all services of RainStorm killed; the machine itself stays up"

    def start(self, node: str) -> str:
        """Starts the services again."""
        self.do(node, f"failed=0\n{plan.start_script()}\nexit $failed")
        return "in service again"

    def pause(self, node: str) -> str:
        """Stops the processes of all services of a machine."""
        self.do(node, plan.pause_script())
        return "all services of RainStorm paused; the watchdog of systemd will restart them in the end"

    def resume(self, node: str) -> str:
        """Lets the services go on."""
        self.do(node, f"failed=0\n{plan.resume_script()}\nexit $failed")
        return "all services resumed"

    def stands(self, fault: Fault) -> bool:
        """Believes the journal: to ask would take a connection to each machine."""
        return True

    def close(self) -> None:
        """Ends the SSH sessions."""
        self._ssh.close()
