"""A local cluster of a test's own: its folder, its addresses, and ``fab`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.common.config import RainstormConfig
from ops.cluster.inventory import ADDRESS_VARIABLE, FOLDER_VARIABLE, INVENTORY_VARIABLE, Inventory, load
from ops.local.cluster import SERVICES, LocalCluster
from ops.local.layout import Layout
from tests.addresses import own_addresses
from tests.support import REPOSITORY, wait_until

FAB = str(Path(sys.executable).with_name("fab"))
FAB_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command did."""

    status: int
    out: str
    err: str


class Sandbox:
    """A folder with a local cluster of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "c"
        self.cluster = LocalCluster(Layout(self.folder, self.folder / "inventory", own_addresses()[0]))
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != INVENTORY_VARIABLE},
            FOLDER_VARIABLE: str(self.folder),
            ADDRESS_VARIABLE: self.cluster.layout.first_address,
            "RAINSTORM_LAB": "none",  # an operator's lab that is up must never be what a test talks to
        }

    def inventory(self) -> Inventory:
        """Returns the inventory of the cluster."""
        return load(self.cluster.layout.inventory_path)

    def fab(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Runs ``fab`` to its end."""
        done = subprocess.run(
            [FAB, *arguments],
            input=stdin,
            capture_output=True,
            cwd=REPOSITORY,
            env=self.environment,
            timeout=FAB_TIMEOUT_S,
            check=False,
        )
        return Ended(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def wait_rested(self) -> None:
        """Waits until all processes of the cluster run.

        Spare tasks start in the background; what starts during a test would be taken for that test's leak.
        """
        # The agents of a node, its task launcher, its spare tasks.
        each = len(SERVICES) + 1 + RainstormConfig().spare_tasks
        whole = len(self.cluster.names()) * each
        wait_until(lambda: len(self.cluster.processes()) >= whole, 20, "all agents and spare tasks run")

    def fab_json(self, *arguments: str) -> dict[str, Any]:
        """Runs ``fab ... --json``, which must succeed, and returns the object."""
        ended = self.fab(*arguments, "--json")
        assert ended.status == 0, ended
        value = json.loads(ended.out)
        assert isinstance(value, dict)
        assert value["schema_version"] == 1
        return value

    def start(self, program: list[str]) -> subprocess.Popen[bytes]:
        """Starts a program in the sandbox's environment, its output going to the folder's ``output`` file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "output", "wb") as output:
            return subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
                env=self.environment,
            )
