"""How ``fab`` differs from plain Invoke: it lists tasks by group, reports mistakes in the command line like
all other errors, with the same exit status, and ends quietly when nobody reads its output any more.
"""

from __future__ import annotations

import difflib
import sys
from typing import Any

from invoke.exceptions import Exit, ParseError

from agent.common.errors import UsageError
from ops.output import listing, pipe
from ops.output.errors import describe


def install(program: Any) -> None:
    """Changes the Invoke program that is about to parse its command line."""
    listing.install(program)
    parse, clean_up = program.parse_tasks, program.parse_cleanup

    def parse_tasks() -> None:
        try:
            parse()
        except ParseError as error:
            raise _usage(program, error) from None

    def parse_cleanup() -> None:
        with pipe.ends_with_its_reader():  # it prints lists and help
            clean_up()

    program.parse_tasks = parse_tasks
    program.parse_cleanup = parse_cleanup


def _usage(program: Any, error: ParseError) -> Exit:
    message = str(error).rstrip("!.")
    context = getattr(error.context, "name", None)
    known = list(program.collection.task_names)
    unknown = message.removeprefix("No idea what '").removesuffix("' is")
    hint = f"fab --help {context}" if context in known else "fab --list"
    if unknown != message:
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean: fab {near[0]}" if near and not unknown.startswith("-") else hint
    told = UsageError(message, hint=hint)
    print(describe("fab", told), file=sys.stderr)
    return Exit(code=told.exit_status)
