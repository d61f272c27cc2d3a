"""How a command ends: an error as three lines on standard error, and the error's own exit status; with
``--json`` also as an object on standard output, unless the command has printed its own there.

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
from ops import render

# What a shell reports of a program that Ctrl-C has ended.
INTERRUPTED_STATUS = 130
# Why an error of each code usually happens, where its message alone does not tell.
CAUSES = {
    "ALREADY_EXISTS": "the name is taken; nothing is ever overwritten without being told to",
    "ALREADY_RUNNING": "it was started before and not stopped",
    "CONFIG_INVALID": "a file or flag holds a value that cannot be used",
    "CONFLICT": "what the request relies on has changed meanwhile, or was never so",
    "CONNECTION_LOST": "the agent was stopped or killed while it worked on the request",
    "CORRUPT": "a disk or a copy damaged the bytes",
    "DEADLINE_EXCEEDED": "an agent is overloaded, paused or cut off",
    "DISK_FAILED": "the disk of a node returned an error",
    "DISK_FULL": "the data folder of a node has no room left",
    "DUPLICATE_ID": "a machine or data folder was cloned together with its identity",
    "FENCED": "a newer writer, job generation or leader has taken over",
    "FORBIDDEN": "the certificate used here does not allow it",
    "FRAME_TOO_LARGE": "one request carries more than an agent accepts",
    "HOST_KEY_CHANGED": "the machine was installed anew, or something else answers at its address",
    "HOST_KEY_UNKNOWN": "nobody has connected to the machine from here and checked its key",
    "INTERNAL": "a defect of ours; the agent's log has the traceback",
    "INVALID_MESSAGE": "the two sides are not of neighbouring releases, or a message was damaged",
    "JOB_FAILED": "the input, a task or the cluster under it; fab job tells",
    "JOB_INVALID": "a mistake in the job file; nothing was started",
    "MISSING_TOOL": "a package of this machine is not installed",
    "NAME_INVALID": "names look like logs/web.csv: at most 255 bytes, no '..', no control characters",
    "NEEDS_ROOT": "it was started as an ordinary user",
    "NOT_FOUND": "it never existed, was deleted, or is misspelt",
    "NOT_LEADER": "a new leader is being elected",
    "NOT_RUNNING": "nothing was started, or it was stopped",
    "NO_MAJORITY": "more than half of the voters are down or cut off",
    "OVERLOADED": "more requests at once than an agent takes",
    "PARTIAL": "the nodes named are down, cut off or not done yet",
    "PORT_IN_USE": "another cluster or program on this machine listens there",
    "PROTOCOL_ERROR": "the agents are not of this release, or something else listens there",
    "SSH_REFUSED": "the user or the key is not the one that the machine accepts",
    "SSH_UNREACHABLE": "the machine is down or cut off from here, or sshd listens elsewhere",
    "STALE_VIEW": "the cluster is changing just now",
    "UNAVAILABLE": "not enough nodes are up",
    "UNREACHABLE": "the agents are down or cut off from here",
    "UNSUPPORTED": "this kind of machine has no means for it",
    "USAGE": "a flag or argument is missing or wrong",
}


def describe(command: str, error: RainStormError) -> str:
    """Returns the three lines: what failed with its code, the likely cause, the next command."""
    return "\n".join(
        [
            f"{command} failed [{error.code}]: {error.message}",
            f"  likely cause: {CAUSES.get(error.code, 'not known; the logs of the agents may tell')}",
            f"  next: {error.hint or 'fab status'}",
        ]
    )


def command(
    positional: Sequence[str] = (),
    help: dict[str, str] | None = None,
    name: str = "",
    short_flags: bool = True,
) -> Callable[[Callable[..., None]], Any]:
    """Makes a function a task of ``fab`` whose errors end it with three lines and their exit status.

    Without ``short_flags`` an option has one letter only if that is its name.
    """

    def wrap(function: Callable[..., None]) -> Any:
        shown = name or function.__name__.replace("_", "-")

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> None:
            printed = render.json_objects()
            try:
                function(*arguments, **keywords)
                sys.stdout.flush()
            except RainStormError as error:
                if keywords.get("json") and render.json_objects() == printed:
                    render.print_json(error=error.to_wire())
                sys.stdout.flush()
                print(describe(shown, error), file=sys.stderr)
                raise Exit(code=error.exit_status) from None
            except KeyboardInterrupt:
                print(f"\n{shown} interrupted", file=sys.stderr)
                raise Exit(code=INTERRUPTED_STATUS) from None
            except BrokenPipeError:
                # The reader of a pipe (head, less) has seen enough; nothing more can be written.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=0) from None

        return task(
            run, name=shown, positional=list(positional), help=help or {}, auto_shortflags=short_flags
        )

    return wrap
