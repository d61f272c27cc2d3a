"""The records of the faults in force: written before a fault is applied, so that a killed command leaves one.

``fault.list`` shows these records. Healing does not rely on them, because the machines themselves carry marks
of what was done to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.common.shell import clock
from ops.faults.plan import Fault
from ops.machine.locks import exclusive

# More than anyone can keep track of; a script that never heals is stopped here.
FAULTS_MAX = 64


class Journal:
    """The faults of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "faults.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock on changes of faults.

        Raises:
            AlreadyRunning: another command is changing them.
        """
        with exclusive(
            self.path.with_suffix(".lock"), "another command is changing faults", "wait until it has finished"
        ):
            yield

    def read(self) -> list[Fault]:
        """Returns the faults in force, oldest first."""
        return [
            Fault(each["number"], each["kind"], tuple(each["nodes"]), each["parameters"], each["since"])
            for each in self._load()["faults"]
        ]

    def add(self, kind: str, nodes: Sequence[str], parameters: Mapping[str, Any]) -> Fault:
        """Records a new fault and returns it."""
        content = self._load()
        fault = Fault(content["next"], kind, tuple(nodes), dict(parameters), clock.wall())
        content["faults"].append(dataclasses.asdict(fault))
        self._save(content["next"] + 1, content["faults"])
        return fault

    def replace(self, faults: Sequence[Fault]) -> None:
        """Records that only these faults are still in force."""
        self._save(self._load()["next"], [dataclasses.asdict(fault) for fault in faults])

    def remove(self) -> None:
        """Removes all records, and the file itself."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            return {"next": int(content["next"]), "faults": list(content["faults"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"next": 1, "faults": []}

    def _save(self, following: int, faults: list[dict[str, Any]]) -> None:
        fresh = self.path.with_suffix(".new")
        content = {"schema_version": 1, "next": following, "faults": faults}
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
