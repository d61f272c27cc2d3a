"""The lab as a whole: up, down, and its state.

``down`` works on a complete, half-created or half-removed lab alike, because it looks at what exists (control
groups, mounts, interfaces, rules) and not at how far ``up`` got. If ``up`` finds the remains of a killed
command, it removes them in the same way first.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.common.deadline import Deadline
from agent.common.errors import AlreadyRunning, DeadlineExceeded, NotFound, NotRunning, Unavailable
from agent.common.shell import clock
from ops.cluster import inventory
from ops.lab import base, host, keys, plan, watches
from ops.lab.machine import DISK_MIB, Machine
from ops.lab.plan import Plan
from ops.machine.cgroups import Group, hierarchies
from ops.machine.locks import exclusive

STATE_FOLDER = Path("/var/lib/rainstorm-lab")
LOCK_FOLDER = Path("/run")
# Booting ten VMs takes ten seconds of processor time, for which other work may compete.
BOOT_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.05
# Creating a VM is mostly copying and waiting for the disk; more at once would only compete for two cores.
THREADS_MAX = 8
SSH_TIMEOUT_S = 10
# On a busy machine a VM gets as much as its four agents would get without a VM.
PROCESSES_OF_A_VM = 4
DISK_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """What is known about one VM."""

    name: str
    address: str
    state: str
    processes: int
    memory_bytes: int


class Lab:
    """One lab, by its name."""

    def __init__(self, name: str = "") -> None:
        self.name = plan.check_name(name or inventory.LAB_NAME)
        self.folder = STATE_FOLDER / self.name
        self.inventory_path = inventory.REPOSITORY / "inventory" / self.name
        self.key_path = self.folder / "ssh" / "key"
        self.known_hosts_path = self.folder / "ssh" / "known_hosts"
        self._given_up = threading.Event()

    def up(self, vms: int) -> Plan:
        """Creates and boots all VMs; returns when each accepts the operator's login over SSH.

        Raises:
            NeedsRoot, MissingTool: this machine or user cannot run a lab.
            AlreadyRunning: the lab is up.
            DeadlineExceeded: a VM does not come up; everything is removed again.
        """
        host.require_root("the lab", f"lab.up --vms {vms}")
        host.require_tools()
        plan.make(self.name, vms, ())
        with self._locked():
            self._refuse_when_up()
            self._clear()  # the remains of a killed command
            image = base.ensure()
            wanted = plan.make(self.name, vms, _taken_subnets())
            self.folder.mkdir(parents=True, mode=0o755)
            watches.allow(STATE_FOLDER)
            self._write_state(wanted, "starting")
            try:
                self._make(wanted, image)
                self._write_state(wanted, "up")
            except BaseException:  # even an interrupt must leave nothing behind
                self._clear()
                raise
        return wanted

    def down(self, *, purge: bool = False) -> dict[str, int]:
        """Removes everything except the cached base image; reports how much there was."""
        host.require_root("the lab", "lab.down")
        with self._locked():
            done = self._clear()
            if purge:
                base.purge()
            with contextlib.suppress(OSError):
                STATE_FOLDER.rmdir()  # this was the last lab
            self._lock_path().unlink(missing_ok=True)
        return done

    def plan(self) -> Plan:
        """Returns the plan of a lab that is up.

        Raises:
            NotRunning: it is not.
        """
        state = self._read_state()
        if state.get("state") != "up":
            raise NotRunning(f"the lab {self.name!r} is not up", hint="fab lab.up --vms 10")
        return Plan(self.name, int(state["subnet"]), int(state["vms"]))

    def subnet(self) -> int:
        """Returns the number of the subnet of a lab that is up or half-created."""
        return self._planned().subnet

    def machine(self, wanted: str) -> Machine:
        """Returns the VM that an operator names as ``3`` or ``vm3``.

        Raises:
            NotFound: the lab has no such VM.
        """
        current = self.plan()
        number = re.fullmatch(r"(?:vm)?0*(\d+)", wanted)
        name = f"vm{number[1]}" if number else wanted
        if name not in current.names():
            raise NotFound(
                f"the lab {self.name!r} has no {wanted!r}; it has vm1 to vm{current.vms}",
                hint="fab lab.status",
            )
        return Machine(current, name, self.folder)

    def start(self, vm: str) -> None:
        """Boots a VM whose power was cut; returns when it accepts the operator's login.

        Raises:
            AlreadyRunning: its power is on.
        """
        machine = self.machine(vm)
        with self._locked():
            if machine.is_up():
                raise AlreadyRunning(f"{machine.vm} is up", hint=f"fab fault.crash --vm {machine.vm[2:]}")
            machine.start()
            self._wait(machine, self.plan(), Deadline(clock.monotonic(), BOOT_TIMEOUT_S))

    def status(self) -> list[MachineStatus]:
        """Returns the state of each VM."""
        current = self.plan()
        return [self._look(Machine(current, vm, self.folder), current) for vm in current.names()]

    def ssh_command(self, vm: str, *remote: str, tty: bool = False) -> list[str]:
        """Returns the arguments of ``ssh`` into a VM."""
        current = self.plan() if self._read_state().get("state") == "up" else self._planned()
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={self.known_hosts_path}", f"ConnectTimeout={SSH_TIMEOUT_S}"]
        arguments = ["ssh", "-F", "none", "-i", str(self.key_path), "-t" if tty else "-T"]
        for option in options:
            arguments += ["-o", option]
        return [*arguments, f"{plan.USER}@{current.address(vm)}", *remote]

    def _make(self, wanted: Plan, image: Path) -> None:
        (self.folder / "ssh").mkdir(mode=0o700)
        public_key = keys.make(self.key_path)
        disk = _empty_disk()
        _make_network(wanted)
        group = Group(self.name)
        group.make()
        group.weigh(PROCESSES_OF_A_VM * wanted.vms)
        machines = [Machine(wanted, vm, self.folder) for vm in wanted.names()]
        with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="lab") as pool:
            host_keys = list(pool.map(lambda each: each.create(image, disk, public_key), machines))
            lines = [f"{wanted.address(m.vm)} {key}\n" for m, key in zip(machines, host_keys, strict=True)]
            self.known_hosts_path.write_text("".join(lines), "ascii")
            deadline = Deadline(clock.monotonic(), BOOT_TIMEOUT_S)
            list(pool.map(lambda each: each.start(), machines))
        with ThreadPoolExecutor(len(machines), thread_name_prefix="lab") as pool:
            waits = [pool.submit(self._wait, each, wanted, deadline) for each in machines]
            try:
                for wait in waits:
                    wait.result()
            except BaseException:
                self._given_up.set()  # no one waits for the others any more
                raise
        content = wanted.inventory(str(self.key_path), str(self.known_hosts_path))
        fresh = self.inventory_path.with_name(f".{self.name}.new")
        fresh.write_text(
            "# Written by fab lab.up; removed by fab lab.down.\n" + yaml.safe_dump(content, sort_keys=False),
            "utf-8",
        )
        fresh.replace(self.inventory_path)

    def _wait(self, machine: Machine, current: Plan, deadline: Deadline) -> None:
        """Returns when a VM accepts the operator's login."""
        refusal = "it is still booting"
        while not self._given_up.wait(POLL_INTERVAL_S):
            if machine.has_booted():
                refusal = self._refusal(machine.vm)
                if not refusal:
                    return
            if deadline.expired(clock.monotonic()):
                raise DeadlineExceeded(
                    f"{machine.vm} ({current.address(machine.vm)}) does not answer SSH after "
                    f"{BOOT_TIMEOUT_S:g} s: {refusal}\n{machine.console()}",
                    hint="fab lab.up --vms 3   (shows whether a smaller lab works here)",
                )
            if not machine.is_up():
                raise Unavailable(
                    f"{machine.vm} ended while booting\n{machine.console()}", hint="fab lab.down"
                )

    def _refusal(self, vm: str) -> str:
        """Returns why a VM does not accept the operator's login, or ''."""
        try:
            done = subprocess.run(
                self.ssh_command(vm, "true"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=2 * SSH_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return "it accepts the connection, but then does not answer"
        return " ".join(done.stderr.split()) or "it refuses" if done.returncode else ""

    def _look(self, machine: Machine, current: Plan) -> MachineStatus:
        pids = machine.group.processes()
        state = "down"
        if pids:
            frozen = machine.group.is_frozen()
            state = "paused" if frozen else "up" if machine.has_booted() else "booting"
        return MachineStatus(machine.vm, current.address(machine.vm), state, len(pids), _memory(pids))

    def _refuse_when_up(self) -> None:
        state = self._read_state()
        if state.get("state") == "up" and Path("/sys/class/net", self._planned().bridge).exists():
            raise AlreadyRunning(
                f"the lab {self.name!r} is already up with {state['vms']} VMs",
                hint="inspect it: fab lab.status   remove it: fab lab.down",
            )

    def _clear(self) -> dict[str, int]:
        """Removes whatever exists of this lab; reports how much there was."""
        if self._read_state():
            self._write_state(self._planned(), "stopping")  # an incomplete lab is not up
        killed = 0
        group = Group(self.name)
        vms = {folder.name for root in hierarchies().values() for folder in (root / group.path).glob("vm*")}
        for vm in sorted(vms):
            one = Group(self.name, vm)
            killed += one.kill()
            one.remove()
        killed += group.kill()
        group.remove()
        mounts = host.unmount_below(self.folder)
        for image in self.folder.glob("vm*/data.img"):
            for line in host.run(["losetup", "--associated", str(image)]).splitlines():
                host.run(["losetup", "--detach", line.split(":")[0]])
        if self._read_state():
            _remove_network(self._planned())
        self.inventory_path.unlink(missing_ok=True)
        shutil.rmtree(inventory.REPOSITORY / ".rainstorm" / self.name, ignore_errors=True)
        host.remove_tree(self.folder)
        watches.restore(STATE_FOLDER)
        return {"vms": len(vms), "processes": killed, "mounts": mounts}

    def _planned(self) -> Plan:
        state = self._read_state()
        return Plan(self.name, int(state["subnet"]), int(state["vms"]))

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / "lab.json").read_text("utf-8"))
        except (FileNotFoundError, PermissionError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, current: Plan, state: str) -> None:
        fresh = self.folder / "lab.json.new"
        content = {"schema_version": 1, "state": state, "subnet": current.subnet, "vms": current.vms}
        fresh.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        fresh.replace(self.folder / "lab.json")

    def _lock_path(self) -> Path:
        return LOCK_FOLDER / f"rainstorm-lab-{self.name}.lock"

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(
            self._lock_path(),
            f"another command is starting or stopping the lab {self.name!r}",
            "wait until it has finished, then try again",
        )


def _empty_disk() -> Path:
    """Returns an image of an empty ext4, created once; it is sparse and takes a few MiB."""
    path = base.CACHE / f"disk-{DISK_MIB}.img"
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(fresh, "wb") as file:
            file.truncate(DISK_MIB * 1024 * 1024)
        # No reserve for root, so that a full disk is full for all users. No lazy initialisation after
        # mounting.
        options = "lazy_itable_init=0,lazy_journal_init=0"
        host.run(["mkfs.ext4", "-q", "-m", "0", "-E", options, str(fresh)], timeout_s=DISK_TIMEOUT_S)
        fresh.replace(path)
    return path


def _taken_subnets() -> set[int]:
    """Returns the third bytes of this machine's addresses and routes in 10.78.0.0/16."""
    text = host.run(["ip", "-4", "address"]) + host.run(["ip", "-4", "route", "show", "table", "all"])
    return {int(number) for number in re.findall(r"\b10\.78\.(\d+)\.", text)}


def _make_network(current: Plan) -> None:
    bridge, chain = current.bridge, current.chain
    host.run(["ip", "link", "add", bridge, "type", "bridge"])
    host.run(["ip", "address", "add", f"{current.host_address}/24", "dev", bridge])
    host.run(["ip", "link", "set", bridge, "up"])
    # Allow traffic between VMs, whatever else this machine filters; block traffic out of or into the lab.
    rules = [
        "*filter",
        f":{chain} - [0:0]",
        f"-A {chain} -i {bridge} -o {bridge} -j ACCEPT",
        f"-A {chain} -i {bridge} -j DROP",
        f"-A {chain} -o {bridge} -j DROP",
        f"-I FORWARD -j {chain}",
        "COMMIT",
    ]
    host.run(["iptables-restore", "--noflush", "--wait", "10"], stdin="\n".join(rules) + "\n")


def _remove_network(current: Plan) -> None:
    chain = current.chain
    rules = host.run(["iptables", "--wait", "10", "-S"]).splitlines()
    commands = [line.replace("-A ", "-D ", 1) for line in rules if line.endswith(f"-j {chain}")]
    if f"-N {chain}" in rules:
        commands += [f"-F {chain}", f"-X {chain}"]
    if commands:
        text = "\n".join(["*filter", *commands, "COMMIT", ""])
        host.run(["iptables-restore", "--noflush", "--wait", "10"], stdin=text)
    if Path("/sys/class/net", current.bridge).exists():
        host.run(["ip", "link", "delete", current.bridge])
    # A VM's network namespace disappears seconds after its last process, and the virtual cable with it.
    for cable in Path("/sys/class/net").glob(f"vb-{current.machine('*')}"):
        try:
            host.run(["ip", "link", "delete", cable.name])
        except Unavailable:
            if cable.exists():
                raise


def _memory(pids: list[int]) -> int:
    """Returns the private memory of these processes in bytes, without shared libraries."""
    total_kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
            total_kib += sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", text, re.M))
    return total_kib * 1024
