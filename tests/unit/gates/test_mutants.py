"""The gate of mutants: it reports a mutant that no test notices, and one that no longer fits the code."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.gates import mutant_list
from tests.gates.mutant import Mutant, UnfitMutantError
from tests.gates.mutants import control, judge, main
from tests.gates.sandbox import Sandbox
from tests.support import REPOSITORY

CODE = "def larger(left: int, right: int) -> int:\n    return left if left > right else right\n"
TESTS = """
import pytest
from agent.code import larger

def test_larger() -> None:
    assert larger(1, 2) == 2

def test_wrong() -> None:
    assert larger(1, 2) == 1

@pytest.mark.skip
def test_skipped() -> None:
    assert larger(1, 2) == 1

def test_exit() -> None:
    import os
    os._exit(3)
"""
TEST = "tests/test_code.py::test_larger"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkout with one module and one file of tests, instead of the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("agent", "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    (folder / "agent" / "code.py").write_text(CODE, "utf-8")
    (folder / "tests" / "test_code.py").write_text(TESTS, "utf-8")
    return folder


@pytest.fixture(scope="module")
def sandbox(checkout: Path) -> Iterator[Sandbox]:
    """A sandbox of the small checkout."""
    with Sandbox(checkout) as sandbox:
        yield sandbox


def make(old: str, new: str, *, hangs: bool = False) -> Mutant:
    """Returns a mutant of the small checkout."""
    return Mutant("a rule", "agent/code.py", old, new, (TEST,), hangs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("left > right", "left < right", "killed"),
        ("left > right", "left >= right", "survived"),
        ("left", "wrong", "its text occurs 3 times"),
        ("gone", "wrong", "its text occurs 0 times"),
        ("return", "return)", "it is not Python: unmatched ')' (code.py, line 2)"),
        ("def larger", "import gone\ndef larger", "pytest ended with USAGE_ERROR"),
    ],
)
def test_a_mutant_is_judged(checkout: Path, sandbox: Sandbox, old: str, new: str, outcome: str) -> None:
    """Killed by a test that fails, surviving when all pass, and broken when it does not fit."""
    verdict = judge(make(old, new), sandbox, LIMIT_S)
    assert verdict.outcome == outcome
    assert verdict.by == (TEST if outcome == "killed" else "")
    assert (checkout / "agent" / "code.py").read_text("utf-8") == CODE
    assert control([TEST], sandbox, LIMIT_S) == "", "the mutant was not removed"


@pytest.mark.slow
def test_a_mutant_of_a_file_that_is_not_there_does_not_fit(sandbox: Sandbox) -> None:
    """When a module moves, its mutants must move too."""
    moved = Mutant("a rule", "agent/moved.py", "old", "new", (TEST,))
    assert judge(moved, sandbox, LIMIT_S).outcome == "no file agent/moved.py"


@pytest.mark.slow
def test_a_mutant_that_hangs_is_killed_only_if_that_is_stated(sandbox: Sandbox) -> None:
    """Tests that do not end in time may also be the fault of the machine."""
    old, new = "return left", "while True: pass\n    return left"
    assert judge(make(old, new), sandbox, 1.0).outcome == "its tests did not end within 1 s"
    stated = judge(make(old, new, hangs=True), sandbox, 1.0)
    assert (stated.outcome, stated.by) == ("killed", "a test that does not end")
    assert control([TEST], sandbox, LIMIT_S) == ""


@pytest.mark.slow
def test_tests_that_fail_anyway_prove_nothing(sandbox: Sandbox) -> None:
    """The tests must pass on the code as it is, and they must run."""
    file = TEST.partition("::")[0]
    wrong, skipped, gone, ended = (f"{file}::test_{name}" for name in ("wrong", "skipped", "gone", "exit"))
    assert control([wrong], sandbox, LIMIT_S) == f"{wrong} without any mutant: failed"
    assert control([skipped], sandbox, LIMIT_S) == f"{skipped} was skipped"
    assert control([gone], sandbox, LIMIT_S) == f"{gone} without any mutant: pytest ended with USAGE_ERROR"
    said = f"{ended} without any mutant: the tests' process ended with 3"
    assert control([ended], sandbox, LIMIT_S) == said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("new", "status", "said"),
    [
        ("left < right", 0, "mutants: 1 of 1 killed"),
        ("left >= right", 1, "mutants: survived: a rule"),
    ],
)
def test_the_exit_status_tells_of_survivors(checkout: Path, new: str, status: int, said: str) -> None:
    """A mutant that survives fails the gate, and is named."""
    output = io.StringIO()
    console = Console(file=output, width=200)
    assert main([], mutants=[make("left > right", new)], checkout=checkout, console=console) == status
    assert said in output.getvalue()


def test_a_choice_without_any_mutant_is_an_error(checkout: Path) -> None:
    """A misspelled choice must not look like success."""
    console = Console(file=io.StringIO())
    assert main(["--only", "nothing"], mutants=[], checkout=checkout, console=console) == 2


def test_each_mutant_fits_the_code() -> None:
    """The text that a mutant changes occurs once in its file, and the tests that it names exist."""
    assert [problem for mutant in mutant_list.MUTANTS for problem in problems(mutant)] == []


def problems(mutant: Mutant) -> list[str]:
    """Returns the reasons why a mutant does not fit."""
    found = []
    try:
        mutant.change(_text(mutant.path))
    except UnfitMutantError as error:
        found.append(f"{mutant.rule}: {mutant.path}: {error}")
    for test in mutant.tests:
        file, _, name = test.partition("[")[0].partition("::")
        wanted = f"def {name}(" if name else "def test_"
        if wanted not in _text(file):
            found.append(f"{mutant.rule}: there is no {test}")
    return found


@functools.cache
def _text(path: str) -> str:
    file = REPOSITORY / path
    return file.read_text("utf-8") if file.is_file() else ""


def test_each_mutant_has_a_name_of_its_own() -> None:
    """The rule names the mutant in the table."""
    rules = [mutant.rule for mutant in mutant_list.MUTANTS]
    assert len(set(rules)) == len(rules)
