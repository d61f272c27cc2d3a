"""``fab --list`` by groups, the most-used commands first.

A task's group is the first word of its docstring, as in ``files: store a local file under a new name``.
Invoke lists by name only, so the running program gets our listing instead.
"""

from __future__ import annotations

from typing import Any

GROUPS = ("jobs", "files", "cluster", "logs", "agents", "keys", "faults", "lab", "local")


def install(program: Any) -> None:
    """Makes ``--list`` of an Invoke program print the tasks by group."""
    program.list_flat = lambda: _list(program)


def groups(collection: Any) -> dict[str, list[tuple[str, str]]]:
    """Returns the tasks of a collection by group, each with its description."""
    found: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
    for name in sorted(collection.task_names):
        lines = str(collection[name].__doc__ or "").strip().splitlines() or [""]
        group, _, words = lines[0].partition(": ")
        if not words:
            group, words = "other", lines[0]
        found.setdefault(group, []).append((name, words))
    return {group: tasks for group, tasks in found.items() if tasks}


def _list(program: Any) -> None:
    root = f"{program.list_root}." if program.list_root else ""
    found = groups(program.scoped_collection)
    width = max((len(root + name) for tasks in found.values() for name, _ in tasks), default=0)
    for group, tasks in found.items():
        print(f"{group}:")
        program.print_columns([((root + name).ljust(width), words) for name, words in tasks])
    print("details of one command: fab --help COMMAND")
