"""A command whose output is no longer read ends quietly, with its usual status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PROGRAM = """
import sys
from invoke.context import Context
from invoke.exceptions import Exit
from agent.common.errors import Unreachable
from ops.output.errors import command

@command()
def talk(context, lines=0, fail=False, other=False, json=False):
    "files: talk"
    if other:
        raise BrokenPipeError(32, "another pipe")
    for line in range(lines):
        print("line", line)
    if fail:
        raise Unreachable("nobody answers")

try:
    talk(Context(), **eval(sys.argv[1]))
except Exit as end:
    sys.exit(end.code)
"""


def ended(*command: str, both: bool = False) -> tuple[int, str]:
    """Runs a program whose stdout (with ``both``, also stderr) has no reader; gives its status and stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = subprocess.run(
            command,
            stdout=writing,
            stderr=writing if both else subprocess.PIPE,
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    return found.returncode, (found.stderr or b"").decode()


@pytest.mark.parametrize("lines", [0, 1, 100_000])
def test_a_command_ends_quietly(lines: int) -> None:
    """A few lines are still in the buffer when it ends; many lines are not."""
    assert ended(sys.executable, "-c", PROGRAM, f"dict(lines={lines})") == (0, "")


@pytest.mark.parametrize("options", ["lines=1, fail=True", "lines=1, fail=True, json=True"])
def test_a_command_that_fails_keeps_its_status(options: str) -> None:
    status, told = ended(sys.executable, "-c", PROGRAM, f"dict({options})")
    assert status == 3
    assert told.startswith("talk failed [UNREACHABLE]: nobody answers\n")
    assert "BrokenPipe" not in told


def test_a_command_may_have_no_reader_of_its_errors_either() -> None:
    assert ended(sys.executable, "-c", PROGRAM, "dict(lines=100_000)", both=True) == (0, "")


def test_a_pipe_to_somewhere_else_is_no_reader() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, "dict(other=True)"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert "BrokenPipeError: [Errno 32] another pipe" in found.stderr


@pytest.mark.parametrize(
    "arguments",
    ["--list", *(pytest.param(each, marks=pytest.mark.slow) for each in ("--list fault", "--help put", ""))],
)
def test_fab_itself_ends_quietly(arguments: str) -> None:
    """This includes --help, which Invoke prints before it loads our tasks."""
    fab = str(Path(sys.executable).with_name("fab"))
    assert ended(fab, *arguments.split()) == (0, "")
