"""How a command ends: an error as three lines on standard error, and the error's own exit status.

fab: get failed [NOT_FOUND]: there is no file 'logs/a.csv'
  likely cause: ...            (left out when the message says it all)
  next: fab list
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from invoke.exceptions import Exit
from invoke.tasks import task

from agent.common.errors import RainStormError

# Why an error of each code usually happens, where the message alone does not tell.
CAUSES = {
    "ALREADY_EXISTS": "the name is taken; HyDFS never overwrites a file",
    "ALREADY_RUNNING": "it was started before and not stopped",
    "CONNECTION_LOST": "the agent was stopped or killed while it worked on the request",
    "DEADLINE_EXCEEDED": "an agent is overloaded, paused or cut off",
    "DISK_FULL": "the data folder of a node has no room left",
    "INTERNAL": "a defect of ours; the agent's log has the traceback",
    "NO_MAJORITY": "more than half of the voters are down or cut off",
    "NOT_FOUND": "the name was never stored, was deleted, or is misspelt",
    "NOT_LEADER": "a new leader is being elected",
    "NOT_RUNNING": "nothing was started, or it was stopped",
    "PORT_IN_USE": "another cluster or program on this machine listens there",
    "UNAVAILABLE": "not enough nodes are up",
    "UNREACHABLE": "the agents are down or cut off from here",
}


def describe(command: str, error: RainStormError) -> str:
    """Returns the three lines: what failed with its code, the likely cause, the next command."""
    lines = [f"{command} failed [{error.code}]: {error.message}"]
    if error.code in CAUSES:
        lines.append(f"  likely cause: {CAUSES[error.code]}")
    lines.append(f"  next: {error.hint or 'fab status'}")
    return "\n".join(lines)


def command(
    positional: Sequence[str] = (), help: dict[str, str] | None = None, name: str = ""
) -> Callable[[Callable[..., None]], Any]:
    """Makes a function a task of ``fab`` whose errors end it with three lines and their exit status."""

    def wrap(function: Callable[..., None]) -> Any:
        shown = name or function.__name__.replace("_", "-")

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> None:
            try:
                function(*arguments, **keywords)
                sys.stdout.flush()
            except RainStormError as error:
                print(describe(shown, error), file=sys.stderr)
                raise Exit(code=error.exit_status) from None
            except BrokenPipeError:
                # The reader of a pipe (head, less) has seen enough; nothing more can be written.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=0) from None

        return task(run, name=shown, positional=list(positional), help=help or {})

    return wrap
