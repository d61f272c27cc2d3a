"""How a failed command ends: with three lines on stderr and the error's own exit status. With ``--json`` the
error is also an object on stdout, unless the command has already printed an object there.

fab: get failed [NOT_FOUND]: there is no file 'logs/a.csv'
  likely cause: ...
  next: fab list
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from invoke.exceptions import Exit
from invoke.tasks import task

from agent.common.errors import RainStormError
from ops.output import pipe, render

# The status that a shell reports for a program ended by Ctrl-C.
INTERRUPTED_STATUS = 130
# The usual cause of each error code, because messages only say what happened.
CAUSES = {
    "ALREADY_EXISTS": "the name is taken, and nothing is overwritten unless you ask for it",
    "ALREADY_RUNNING": "it was started earlier and not stopped",
    "CONFIG_INVALID": "a file or flag contains an invalid value",
    "CONFLICT": "a condition of the request no longer holds, or never did",
    "CONNECTION_LOST": "the agent was stopped or killed during the request",
    "CORRUPT": "the bytes were damaged on a disk or while they were copied",
    "DEADLINE_EXCEEDED": "an agent is overloaded, paused or cut off",
    "DISK_FAILED": "the disk of a node returned an error",
    "DISK_FULL": "the data folder of a node has no space left",
    "DUPLICATE_ID": "a machine or data folder was cloned together with its identity",
    "FENCED": "a newer writer, job generation or leader has taken over",
    "FORBIDDEN": "the certificate used here does not allow it",
    "FRAME_TOO_LARGE": "one request carries more than an agent accepts",
    "HOST_KEY_CHANGED": "the machine was reinstalled, or another machine answers at its address",
    "HOST_KEY_UNKNOWN": "no one has connected to the machine from here and checked its key yet",
    "INTERNAL": "a bug in RainStorm; the agent's log has the traceback",
    "INVALID_MESSAGE": "the two sides run releases that do not fit together, or a message was damaged",
    "JOB_FAILED": "a problem with the input, a task or the cluster; fab job shows which",
    "JOB_INVALID": "a mistake in the job file; nothing was started",
    "MISSING_TOOL": "a package is not installed on this machine",
    "NAME_INVALID": "names look like logs/web.csv: at most 255 bytes, no '..', no control characters",
    "NEEDS_ROOT": "the command was started as an ordinary user",
    "NOT_FOUND": "it never existed, was deleted, or is misspelled",
    "NOT_LEADER": "a new leader is being elected",
    "NOT_RUNNING": "it was never started, or it was stopped",
    "NO_MAJORITY": "more than half of the voters are down or cut off",
    "OVERLOADED": "more requests at once than an agent accepts",
    "PARTIAL": "the nodes named are down, cut off or not finished yet",
    "PORT_IN_USE": "another cluster or program on this machine uses the port",
    "PROTOCOL_ERROR": "the agents run another release, or another program uses the port",
    "RECORD_TOO_LARGE": "a part of the state outgrew what one record of a log may hold",
    "SSH_REFUSED": "the machine does not accept the user or the key",
    "SSH_UNREACHABLE": "the machine is down or cut off from here, or sshd uses another port",
    "STALE_VIEW": "the cluster is changing right now",
    "UNAVAILABLE": "not enough nodes are up",
    "UNREACHABLE": "the agents are down or cut off from here",
    "UNSUPPORTED": "this kind of machine does not support it",
    "USAGE": "a flag or argument is missing or wrong",
}


def describe(command: str, error: RainStormError) -> str:
    """Returns the three lines: what failed, with its code; the likely cause; the command to type next."""
    return "\n".join(
        [
            f"{command} failed [{error.code}]: {error.message}",
            f"  likely cause: {CAUSES.get(error.code, 'unknown; see the logs of the agents')}",
            f"  next: {error.hint or 'fab status'}",
        ]
    )


def command(
    positional: Sequence[str] = (),
    help: dict[str, str] | None = None,
    name: str = "",
    short_flags: bool = True,
) -> Callable[[Callable[..., None]], Any]:
    """Makes a function a task of ``fab`` that reports an error in three lines and exits with its status.

    Without ``short_flags``, only options whose name is one letter have a one-letter form.
    """

    def wrap(function: Callable[..., None]) -> Any:
        shown = name or function.__name__.replace("_", "-")

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> None:
            printed = render.json_objects()
            with pipe.ends_with_its_reader():
                try:
                    function(*arguments, **keywords)
                except RainStormError as error:
                    if keywords.get("json") and render.json_objects() == printed:
                        render.print_json(error=error.to_wire())
                    pipe.flush()
                    print(describe(shown, error), file=sys.stderr)
                    raise Exit(code=error.exit_status) from None
                except KeyboardInterrupt:
                    print(f"\n{shown} interrupted", file=sys.stderr)
                    raise Exit(code=INTERRUPTED_STATUS) from None

        return task(
            run, name=shown, positional=list(positional), help=help or {}, auto_shortflags=short_flags
        )

    return wrap
