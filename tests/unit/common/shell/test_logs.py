"""A file behind stderr stays bounded; anything else is left alone. Lines are logfmt."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.shell import logs
from agent.common.shell.logs import FILES_KEPT, LogfmtFormatter

PROGRAM = """
import logging
from agent.common.shell import logs
logging.getLogger().handlers[:] = [logs.BoundedStderr(2000)]
for number in range(400):
    logging.warning("line %05d", number)
"""


def _run(stderr: int) -> None:
    assert subprocess.run([sys.executable, "-c", PROGRAM], stderr=stderr, check=False).returncode == 0


def test_a_full_file_is_renamed_and_no_line_is_lost(tmp_path: Path) -> None:
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


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before afterwards."""
    found = logging.getLogger()
    handlers, level = list(found.handlers), found.level
    yield found
    found.handlers[:] = handlers
    found.setLevel(level)


def test_configure_sends_lines_of_the_level_to_stderr(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning")
    logging.getLogger("agent.test").info("too_quiet")
    logging.getLogger("agent.test").warning("disk_slow ms=%d", 12)
    written = capsys.readouterr().err
    assert "Z WARNING agent.test disk_slow ms=12" in written
    assert "too_quiet" not in written


def test_a_line_has_its_time_in_utc_and_its_traceback_below() -> None:
    record = logging.LogRecord("agent.x", logging.ERROR, "x.py", 1, "failed n=%d", (3,), None)
    record.created, record.msecs = 1_700_000_000.0, 7.0
    assert LogfmtFormatter().format(record) == "2023-11-14T22:13:20.007Z ERROR agent.x failed n=3"
    try:
        raise ValueError("planted")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    first, *below = LogfmtFormatter().format(record).splitlines()
    assert first.endswith("failed n=3")
    assert below[0].startswith("Traceback")
    assert below[-1] == "ValueError: planted"
