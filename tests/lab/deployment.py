"""A cluster that the playbooks deploy on a lab's VMs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from ops.cluster.inventory import REPOSITORY
from tests.integration.cluster import Ended
from tests.lab.sandbox import LabSandbox

PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
# For ten VMs, one after the other, on a busy machine.
PLAY_TIMEOUT_S = 1500


class Deployment:
    """The lab's cluster and the playbooks that make it."""

    def __init__(self, lab: LabSandbox) -> None:
        self.lab = lab
        self.inventory = str(lab.lab.inventory_path)
        self.secrets = REPOSITORY / ".rainstorm" / lab.lab.name

    def play(self, playbook: str, *options: str) -> Ended:
        """Runs a playbook to its end."""
        done = subprocess.run(
            [PLAYBOOK, playbook, "-i", self.inventory, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**self.lab.environment, "ANSIBLE_NOCOLOR": "1"},
            timeout=PLAY_TIMEOUT_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, playbook: str, *options: str) -> dict[str, int]:
        """Runs a playbook, which must succeed, and returns the number of changes on each VM."""
        ended = self.play(playbook, *options)
        assert ended.status == 0, ended.out[-4000:] + ended.err
        return {name: int(n) for name, n in re.findall(r"^(vm\d+) .*?changed=(\d+)", ended.out, re.MULTILINE)}

    def fab(self, *arguments: str) -> Ended:
        """Runs ``fab`` on this cluster."""
        return self.lab.fab(*arguments, "--inventory", self.inventory)

    def root(self, vm: str, command: str) -> str:
        """Returns the output of a command that runs as root on a VM."""
        ended = self.lab.ssh(vm, f"sudo sh -c {shlex.quote(command)}", timeout_s=90)
        assert ended.status == 0, ended
        return ended.out.strip()

    def property(self, vm: str, agent: str, name: str) -> str:
        """Returns a property of an agent's unit."""
        return self.root(vm, f"systemctl show rainstorm-{agent} --value --property={name}")
