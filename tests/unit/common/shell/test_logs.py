"""Standard error as a file stays bounded; as anything else it is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agent.common.shell.logs import FILES_KEPT

PROGRAM = """
import logging
from agent.common.shell import logs
logging.getLogger().handlers[:] = [logs.BoundedStderr(2000)]
for number in range(400):
    logging.warning("line %05d", number)
"""


def _run(stderr: int) -> None:
    assert subprocess.run([sys.executable, "-c", PROGRAM], stderr=stderr, check=False).returncode == 0


def test_a_full_file_is_moved_aside_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    with path.open("ab") as file:
        _run(file.fileno())
    names = [*(f"agent.log.{number}" for number in range(FILES_KEPT, 0, -1)), "agent.log"]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)
    lines = b"".join((tmp_path / name).read_bytes() for name in names).splitlines()
    assert lines == [b"line %05d" % number for number in range(400 - len(lines), 400)]
    assert all((tmp_path / name).stat().st_size < 2100 for name in names)


def test_a_pipe_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=False)
    assert done.stderr.count(b"\n") == 400
