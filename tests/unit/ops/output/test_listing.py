"""The command line: every task is in a known group, and mistakes are reported like all other errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ops.output.listing import GROUPS, groups
from ops.tasks import namespace
from tests.support import REPOSITORY


def test_every_task_has_a_known_group_and_says_what_it_does() -> None:
    found = groups(namespace)
    assert set(found) <= set(GROUPS)
    assert sum(len(tasks) for tasks in found.values()) == len(namespace.task_names)
    assert ("put", "store a local file under a new name") in found["files"]
    assert "keys.rotate" in [name for name, _ in found["keys"]]
    daily = {"submit-job", "kill-task", "kill-agent", "list-tasks", "grep", "status", "rainstorm", "verify"}
    assert daily <= set(namespace.task_names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said", "following"),
    [
        (["statsu"], "No idea what 'statsu' is", "did you mean: fab status"),
        (["get", "a"], "did not receive required positional arguments: 'local'", "fab --help get"),
        (["status", "--jsn"], "No idea what '--jsn' is", "fab --help status"),
    ],
)
def test_a_mistake_in_the_command_line_is_usage(words: list[str], said: str, following: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("fab"), *words], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("fab failed [USAGE]: ")
    assert said in lines[0]
    assert lines[2] == f"  next: {following}"
