"""Which tests share a worker process of a parallel run, and which are run first.

pytest-xdist's own groups (``--dist loadgroup``) mark a test by a suffix of its node id, which pytest 9 does
not let it change: every test would then go anywhere.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parent.parent
# A module that makes a cluster for all of its tests is run by one worker.
SHARES = re.compile(r"""fixture\(\s*scope=["']module["']""")
REAL_AGENTS, SIMULATION, OTHER = range(3)


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker a file, or a single test where tests are long and share nothing.

    Tests of real agents come first: they wait most of the time and may last half a minute, so simulations and
    unit tests, which are short, fill the gaps at the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        if file.startswith("tests/lab/"):
            return "lab"  # one lab for all
        if _room(nodeid) == REAL_AGENTS:
            return file if _shares(file) else nodeid
        return nodeid if _room(nodeid) == SIMULATION else file

    def _assign_work_unit(self, node: object) -> None:
        first = min(self.workqueue, key=lambda scope: (_room(scope), -len(self.workqueue[scope])))
        self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _room(nodeid: str) -> int:
    if nodeid.startswith(("tests/integration/", "lab")):
        return REAL_AGENTS
    return SIMULATION if nodeid.startswith("tests/simulation/") else OTHER


@functools.cache
def _shares(file: str) -> bool:
    return SHARES.search((REPOSITORY / file).read_text("utf-8")) is not None
