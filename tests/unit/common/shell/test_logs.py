"""If stderr is a file, its size stays bounded; anything else is left alone. Lines are logfmt."""

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
    """The root logger, which is restored afterwards."""
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


def test_the_stream_goes_on_in_a_new_file_when_the_old_one_is_full(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    handler = logs.BoundedStderr(200)
    with path.open("a") as file:
        handler.stream = file
        for number in range(40):
            record = logging.LogRecord("agent.x", logging.INFO, "x.py", 1, "line %05d", (number,), None)
            handler.emit(record)
    kept = [path, *(tmp_path / f"agent.log.{number}" for number in range(1, FILES_KEPT + 1))]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert all(each.stat().st_size < 220 for each in kept)
    assert path.stat().st_mode & 0o777 == 0o640
    lines = b"".join(each.read_bytes() for each in reversed(kept)).splitlines()
    assert lines == [b"line %05d" % number for number in range(40 - len(lines), 40)]


def test_a_file_that_cannot_be_renamed_is_tried_again_after_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logs.BoundedStderr(100)
    record = logging.LogRecord("agent.x", logging.INFO, "x.py", 1, "x" * 90, (), None)
    with (tmp_path / "agent.log").open("a") as file, monkeypatch.context() as patched:
        handler.stream = file
        patched.setattr("os.readlink", lambda path: f"{tmp_path}/gone/agent.log")
        for _ in range(3):
            handler.emit(record)
        assert [each.name for each in tmp_path.iterdir()] == ["agent.log"]
        patched.undo()
        handler.emit(record)
        assert len(list(tmp_path.iterdir())) == 2
