"""Which tests share a worker process of a parallel run.

pytest-xdist's own groups (``--dist loadgroup``) mark a test by a suffix of its node id, which pytest 9 does
not let it change: every test then goes anywhere, and tests of real agents run two at a time.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of real agents go to one process, unit tests file by file, simulations where there is room."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        if file.startswith(("tests/integration/", "tests/lab/")):
            return "real agents"
        return nodeid if file.startswith("tests/simulation/") else file
