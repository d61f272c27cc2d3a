"""Every failing command prints three lines and exits with the error's own status."""

from __future__ import annotations

import json

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from agent.common.errors import NotFound, RainStormError, Unreachable
from ops.output import render
from ops.output.errors import CAUSES, command, describe
from ops.tasks import namespace


def test_three_lines() -> None:
    text = describe("get", NotFound("there is no file 'a'", hint="list them: fab list"))
    assert text.splitlines() == [
        "get failed [NOT_FOUND]: there is no file 'a'",
        f"  likely cause: {CAUSES['NOT_FOUND']}",
        "  next: list them: fab list",
    ]


def test_there_is_always_a_next_command() -> None:
    assert describe("x", RainStormError("broken")).splitlines()[-1] == "  next: fab status"


def kinds(root: type[RainStormError]) -> set[type[RainStormError]]:
    """Returns a class of errors and all its subclasses in this project."""
    found = {each for child in root.__subclasses__() for each in kinds(child)}
    return found | {root} if root.__module__.startswith(("agent.", "ops.")) else found


def test_every_code_has_its_likely_cause() -> None:
    assert namespace.tasks  # this imports every error that commands can raise
    assert set(CAUSES) == {kind.code for kind in kinds(RainStormError)}


def test_a_task_ends_with_the_status_of_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    @command(positional=("name",), help={"name": "a name"})
    def look_up(context: Context, name: str) -> None:
        """files: look a name up"""
        raise Unreachable(f"nobody knows {name}")

    with pytest.raises(Exit) as caught:
        look_up(Context(), "vm9")
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith("look-up failed [UNREACHABLE]: nobody knows vm9\n")


def test_with_json_an_error_is_an_object_unless_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    @command()
    def ask(context: Context, printed: bool = False, json: bool = False) -> None:
        """cluster: ask"""
        if printed:
            render.print_json(settled=False)
        raise Unreachable("nobody answers", hint="fab status")

    for printed, key in ((False, "error"), (True, "settled")):
        with pytest.raises(Exit):
            ask(Context(), printed=printed, json=True)
        content = json.loads(capsys.readouterr().out)
        assert list(content) == ["schema_version", key]
    with pytest.raises(Exit):
        ask(Context())
    assert capsys.readouterr().out == ""


def test_an_interrupt_ends_it_as_a_shell_reports_it(capsys: pytest.CaptureFixture[str]) -> None:
    @command()
    def look(context: Context) -> None:
        """cluster: look"""
        raise KeyboardInterrupt

    with pytest.raises(Exit) as caught:
        look(Context())
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\nlook interrupted\n"


def test_a_defect_keeps_its_traceback() -> None:
    @command()
    def broken(context: Context) -> None:
        """files: break"""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken(Context())
