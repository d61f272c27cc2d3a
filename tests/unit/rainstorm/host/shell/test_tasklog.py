"""The task log: many writers, rotation, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from agent.rainstorm.host.shell import tasklog
from agent.rainstorm.host.shell.tasklog import FILES_KEPT, TaskLog
from tests.support import wait_until

WRITER = "import os, sys\nfor i in range(2000): os.write(1, b'%s %d\\n' % (sys.argv[1].encode(), i))"


def test_lines_of_many_processes_survive_rotation_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is in exactly one file, and every file ends with a whole line."""
    # Otherwise a late reader would take everything at once.
    monkeypatch.setattr(tasklog, "READ_BYTES", 1000)
    log = TaskLog(tmp_path / "tasks.log", file_bytes_max=10_000)
    log.start()
    writers = []
    for number in range(3):
        descriptor = log.writer()
        writers.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(number)], stdout=descriptor, stderr=descriptor
            )
        )
        os.close(descriptor)
    for writer in writers:
        assert writer.wait(20) == 0
    log.stop(5.0)
    files = [tmp_path / "tasks.log", *(tmp_path / f"tasks.log.{n}" for n in range(1, FILES_KEPT + 1))]
    lines = b"".join(path.read_bytes() for path in files if path.exists()).splitlines()
    assert len(list(tmp_path.iterdir())) > 1
    # A file is renamed between two lines, after at most one extra read of the pipe.
    assert all(path.read_bytes().endswith(b"\n") for path in files if path.exists())
    assert sorted(lines) == sorted(b"%d %d" % (n, i) for n in range(3) for i in range(2000))


def _is_in(line: bytes, path: Path) -> bool:
    try:
        return line in path.read_bytes()
    except FileNotFoundError:  # between the rename and the new file
        return False


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    """The oldest file is dropped when a new one is begun."""
    log = TaskLog(tmp_path / "tasks.log", file_bytes_max=100)
    log.start()
    descriptor = log.writer()
    for number in range(12):
        os.write(descriptor, b"%099d\n" % number * 2)
        line = b"%099d" % number
        wait_until(partial(_is_in, line, log.path), 5, "the line is in the file")
    os.close(descriptor)
    log.stop(5.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tasks.log",
        *(f"tasks.log.{n}" for n in range(1, FILES_KEPT + 1)),
    ]
