"""The tests that share a worker process of a parallel run, and those that are run first.

pytest-xdist's own groups (``--dist loadgroup``) mark a test by a suffix of its node id, which pytest 9 does
not let it change: every test would then go anywhere.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parent.parent
# If a module makes something for all of its tests, such as a cluster, one worker runs the module.
SHARES = re.compile(r"""fixture\(\s*scope=["']module["']""")
# The longest units, the longest first, so that none of them begins when everything else is done.
LONGEST = (
    "tests/programs/test_ansible_lint.py",
    "tests/integration/test_local_cluster.py",
    "tests/integration/test_membership_operations.py",
    "tests/integration/test_rainstorm_jobs.py",
    "tests/integration/test_fab_agents.py",
    "tests/integration/test_local_lifecycle.py",
    "tests/integration/test_demo.py",
    "tests/integration/test_rainstorm.py",
    "tests/integration/test_experiments.py",
    "tests/integration/test_hydfs.py",
)
PROGRAMS, SIMULATIONS, UNITS = range(len(LONGEST), len(LONGEST) + 3)


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker a file, or a single test if tests are long and share nothing.

    Tests of real agents and programs come first: they wait often and may last half a minute, so simulations
    and unit tests, which are short, fill the gaps at the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: object) -> None:
        first = min(self.workqueue, key=lambda unit: (place_of(unit), -len(self.workqueue[unit])))
        self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def unit_of(nodeid: str) -> str:
    """Returns the unit that one worker runs as a whole: a file or a single test."""
    file = _file(nodeid)
    if file.startswith("tests/lab/"):
        return "tests/lab"  # one lab for all
    return file if place_of(nodeid) == UNITS or _shares(file) else nodeid


def place_of(unit: str) -> int:
    """Returns the place of a unit in the order of the run; the lower, the earlier."""
    file = _file(unit)
    if file in LONGEST:
        return LONGEST.index(file)
    if file.startswith(("tests/integration/", "tests/programs/", "tests/lab")):
        return PROGRAMS
    return SIMULATIONS if file.startswith("tests/simulation/") else UNITS


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@functools.cache
def _shares(file: str) -> bool:
    return SHARES.search((REPOSITORY / file).read_text("utf-8")) is not None
