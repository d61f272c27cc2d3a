"""Properties that all tasks of ``fab`` share."""

from __future__ import annotations

import pytest

from ops.tasks import namespace
from tests.support import options_of

# An interactive shell has no output for programs.
NOT_FOR_PROGRAMS = {"lab.shell"}
# These commands destroy, kill or disturb something, so they can show it first.
DANGEROUS = {
    "cancel-job",
    "delete",
    "drop",
    "fault.bandwidth",
    "fault.clock",
    "fault.crash",
    "fault.delay",
    "fault.disk-full",
    "fault.loss",
    "fault.one-way",
    "fault.partition",
    "fault.pause",
    "keys.rotate",
    "kill-agent",
    "kill-task",
    "lab.down",
    "leave",
    "local.down",
    "restart-agent",
    "switch",
    "voters",
}


@pytest.mark.parametrize("name", sorted(namespace.task_names))
def test_every_task_has_json_and_every_dangerous_one_a_dry_run(name: str) -> None:
    options = options_of(namespace[name])
    parameters = {each.name for each in options}
    assert ("json" in parameters) == (name not in NOT_FOR_PROGRAMS)
    if name in DANGEROUS:
        assert "dry_run" in parameters
    assert [each.name for each in options if not each.help] == [], "every option is explained"


def test_the_dangerous_tasks_exist() -> None:
    assert set(namespace.task_names) >= DANGEROUS
