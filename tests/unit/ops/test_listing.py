"""``fab --list``: every task in a group that is known."""

from __future__ import annotations

from ops.listing import GROUPS, groups
from ops.tasks import namespace


def test_every_task_has_a_known_group_and_says_what_it_does() -> None:
    found = groups(namespace)
    assert set(found) <= set(GROUPS)
    assert sum(len(tasks) for tasks in found.values()) == len(namespace.task_names)
    assert ("put", "store a local file under a new name") in found["files"]
    assert "keys.rotate" in [name for name, _ in found["keys"]]
    daily = {"submit-job", "kill-task", "kill-agent", "list-tasks", "grep", "status", "rainstorm", "verify"}
    assert daily <= set(namespace.task_names)
