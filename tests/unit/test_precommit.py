"""The hooks that run before a commit are the project's own tools, and they exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPOSITORY

CONFIG = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))
HOOKS: list[dict[str, Any]] = [hook for repository in CONFIG["repos"] for hook in repository["hooks"]]


def test_no_hook_needs_the_network() -> None:
    assert {repository["repo"] for repository in CONFIG["repos"]} == {"local"}
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: str(hook["id"]))
def test_the_command_of_a_hook_exists(hook: dict[str, Any]) -> None:
    assert {"id", "name", "entry"} <= hook.keys()
    program, *arguments = shlex.split(hook["entry"])
    # make installs into .venv; the tests may run from an environment elsewhere with the same programs.
    assert Path(program).parent == Path(".venv/bin")
    assert (Path(sys.executable).parent / Path(program).name).exists(), f"{program} is not installed"
    assert [name for name in arguments if name.endswith(".py") and not (REPOSITORY / name).is_file()] == []
    re.compile(hook.get("files", ""))
