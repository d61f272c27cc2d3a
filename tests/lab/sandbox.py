"""A test's own lab: ``fab`` and SSH as an operator uses them, and a search for its remains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ops.cluster.inventory import (
    ADDRESS_VARIABLE,
    FOLDER_VARIABLE,
    INVENTORY_VARIABLE,
    LAB_VARIABLE,
    REPOSITORY,
)
from ops.lab import host
from ops.lab.lab import STATE_FOLDER, Lab
from ops.machine.cgroups import hierarchies
from tests.integration.cluster import FAB, Ended

# The first lab on a machine builds the base image.
UP_TIMEOUT_S = 600


class LabSandbox:
    """A lab that no other test, checkout or operator has."""

    def __init__(self, name: str) -> None:
        self.lab = Lab(name)
        other = (INVENTORY_VARIABLE, FOLDER_VARIABLE, ADDRESS_VARIABLE)
        self.environment = {key: value for key, value in os.environ.items() if key not in other}
        self.environment[LAB_VARIABLE] = name
        # A task without --inventory must not find an operator's local cluster.
        self.environment[FOLDER_VARIABLE] = f"/nonexistent/{name}"

    def fab(self, *arguments: str) -> Ended:
        """Runs ``fab`` to its end."""
        done = subprocess.run(
            [FAB, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=self.environment,
            timeout=UP_TIMEOUT_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start_fab(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts ``fab``, to be killed by the test."""
        return subprocess.Popen(
            [FAB, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
            env=self.environment,
        )

    def json(self, *arguments: str) -> dict[str, Any]:
        """Runs ``fab`` with ``--json`` and returns what it printed."""
        ended = self.fab(*arguments, "--json")
        assert ended.status == 0, ended.err
        found: dict[str, Any] = json.loads(ended.out)
        return found

    def ssh(self, vm: str, command: str, timeout_s: float = 30.0) -> Ended:
        """Runs a command on a VM as the operator."""
        done = subprocess.run(
            self.lab.ssh_command(vm, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def reaches(self, vm: str, other: str) -> bool:
        """Tells whether packets go from one VM to another and back."""
        return self.ssh(vm, f"ping -q -c 3 -i 0.05 -W 0.5 {other}").status == 0

    def traces(self) -> list[str]:
        """Returns everything that this lab has left on this machine."""
        name = self.lab.name
        found = [str(path) for path in (self.lab.folder, self.lab.inventory_path) if path.exists()]
        found += [str(path) for path in Path("/run").glob(f"rainstorm-lab-{name}.lock")]
        for root in hierarchies().values():
            found += [str(path) for path in root.glob(f"rainstorm-lab-{name}*")]
        found += [f"mount {point}" for point in host.mounts_below(STATE_FOLDER / name)]
        found += [line for line in host.run(["losetup", "--list"]).splitlines() if f"/{name}/" in line]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue  # it ended meanwhile
            if f"/rainstorm-lab/{name}/" in command and "nspawn" in command:
                found.append(command)
        return found


def network_traces(subnet: int) -> list[str]:
    """Returns the interfaces and rules of the lab with a subnet."""
    interfaces = [path.name for path in Path("/sys/class/net").iterdir()]
    found = [name for name in interfaces if name == f"rslab-{subnet}" or name.startswith(f"vb-{subnet}-")]
    rules = host.run(["iptables", "--wait", "10", "-S"]).splitlines()
    return found + [line for line in rules if f"RAINSTORM-LAB-{subnet}" in line.split()]


def why_not() -> str:
    """Returns why this machine cannot have a lab, or ''."""
    if os.geteuid() != 0:
        return "the lab needs root"
    missing = [tool for tool in host.PACKAGES if shutil.which(tool, path=host.SEARCH_PATH) is None]
    return f"the lab needs {', '.join(missing)}" if missing else ""
