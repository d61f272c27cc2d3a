"""Which processes count as agents and which as tasks."""

from __future__ import annotations

import pytest

from ops.machine.memory import role


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m agent hydfs --config x", "hydfs"),
        ("python -W error -m agent membership --config x", "membership"),
        ("python -m agent.rainstorm.task.shell.task --config x", "task"),
        ("python -m ops.demo.reference job.yml input", ""),
        ("python -c pass", "task"),
    ],
)
def test_role(command: str, expected: str) -> None:
    assert role(command.split()) == expected
