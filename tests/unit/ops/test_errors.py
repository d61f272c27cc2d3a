"""Every failing command says three things and exits with the error's own status."""

from __future__ import annotations

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from agent.common import errors
from agent.common.errors import NotFound, RainStormError, Unreachable
from ops.errors import CAUSES, command, describe


def test_three_lines() -> None:
    text = describe("get", NotFound("there is no file 'a'", hint="list them: fab list"))
    assert text.splitlines() == [
        "get failed [NOT_FOUND]: there is no file 'a'",
        f"  likely cause: {CAUSES['NOT_FOUND']}",
        "  next: list them: fab list",
    ]


def test_there_is_always_a_next_command() -> None:
    assert describe("x", RainStormError("broken")).splitlines()[-1] == "  next: fab status"


def test_every_code_has_its_likely_cause() -> None:
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RainStormError)
    }
    assert set(CAUSES) == codes


def test_a_task_ends_with_the_status_of_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    @command(positional=("name",), help={"name": "a name"})
    def look_up(context: Context, name: str) -> None:
        """files: look a name up"""
        raise Unreachable(f"nobody knows {name}")

    with pytest.raises(Exit) as caught:
        look_up(Context(), "vm9")
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith("look-up failed [UNREACHABLE]: nobody knows vm9\n")


def test_a_defect_keeps_its_traceback() -> None:
    @command()
    def broken(context: Context) -> None:
        """files: break"""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken(Context())
