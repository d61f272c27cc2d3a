"""A test's own local cluster: its folder, its addresses, and ``fab`` as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops.cluster.inventory import ADDRESS_VARIABLE, FOLDER_VARIABLE, INVENTORY_VARIABLE, Inventory, load
from ops.local.cluster import LocalCluster
from ops.local.layout import Layout
from tests.addresses import own_addresses
from tests.leaks import adopt
from tests.support import REPOSITORY

FAB = str(Path(sys.executable).with_name("fab"))
FAB_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command."""

    status: int
    out: str
    err: str


class Sandbox:
    """A folder with its own local cluster."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        """``overrides`` go into the nodes' configuration when the test itself starts the cluster."""
        self.folder = folder / "c"
        inventory = self.folder / "inventory"
        self.cluster = LocalCluster(Layout(self.folder, inventory, own_addresses()[0], overrides))
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != INVENTORY_VARIABLE},
            FOLDER_VARIABLE: str(self.folder),
            ADDRESS_VARIABLE: self.cluster.layout.first_address,
            "RAINSTORM_LAB": "none",  # a test must never talk to an operator's lab
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


def check_refused(ended: Ended, code: str, status: int, *words: str) -> None:
    """Checks that a command ended with one clear error: three lines, its code, its exit status."""
    lines = ended.err.strip().splitlines()
    assert ended.status == status, ended
    assert f"[{code}]" in lines[0], ended
    assert lines[-1].startswith("  next: "), ended
    assert len(lines) == 3, ended
    assert "Traceback" not in ended.err
    assert not ended.out
    for word in words:
        assert word in ended.err, ended


# Tests that run no job need no spare task.
NO_SPARES = {"rainstorm": {"spare_tasks": 0}}


@contextlib.contextmanager
def shared(request: pytest.FixtureRequest, folder: Path, nodes: int, **overrides: Any) -> Iterator[Sandbox]:
    """Yields a running cluster for the fixture of a wider scope that ``request`` sets up."""
    place = Sandbox(folder, **overrides)
    adopt(request, place.folder)
    try:
        place.cluster.up(nodes)
        yield place
    finally:
        place.cluster.down()
