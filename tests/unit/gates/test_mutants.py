"""The gate of mutants: one that no test notices is found, and so is one that no longer fits the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gates import mutant_list, mutants
from tests.gates.mutants import Mutant, control, judge
from tests.support import REPOSITORY

CODE = "def larger(left: int, right: int) -> int:\n    return left if left > right else right\n"
GOOD = "from agent.code import larger\n\ndef test_it() -> None:\n    assert larger(1, 2) == 2\n"
TESTS = ("tests/test_code.py",)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with one module and one test, in the place of the real one."""
    for folder in ("agent", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "agent" / "code.py").write_text(CODE, "utf-8")
    (tmp_path / "tests" / "test_code.py").write_text(GOOD, "utf-8")
    monkeypatch.setattr(mutants, "REPOSITORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("left > right", "left < right", "killed"),
        ("left > right", "left >= right", "survived"),
        ("left", "wrong", "its text occurs 3 times"),
        ("gone", "wrong", "its text occurs 0 times"),
        ("return", "return)", "it is not Python: unmatched ')' (code.py, line 2)"),
    ],
)
def test_a_mutant_is_judged(checkout: Path, old: str, new: str, outcome: str) -> None:
    """Killed by a test that fails, surviving when all pass, and broken when it does not fit."""
    verdict = judge(Mutant("a rule", "agent/code.py", old, new, TESTS), limit_s=60.0)
    assert verdict.outcome.replace("<unknown>", "code.py") == outcome
    assert (checkout / "agent" / "code.py").read_text("utf-8") == CODE


@pytest.mark.slow
def test_a_mutant_that_hangs_is_killed(checkout: Path) -> None:
    """A test that never ends has noticed."""
    endless = Mutant("a rule", "agent/code.py", "return left", "while True: pass\n    return left", TESTS)
    assert judge(endless, limit_s=5.0).outcome == "killed"


@pytest.mark.slow
def test_tests_that_fail_anyway_prove_nothing(checkout: Path) -> None:
    """The tests must pass on the code as it is."""
    mutant = Mutant("a rule", "agent/code.py", "left > right", "left < right", TESTS)
    assert control([mutant], checkout / "first", limit_s=15.0) == ""
    (checkout / "tests" / "test_code.py").write_text(GOOD.replace("== 2", "== 1"), "utf-8")
    assert control([mutant], checkout / "second", limit_s=15.0) == "the tests without any mutant: failed"


@pytest.mark.slow
def test_a_mutant_of_a_compiled_copy_is_compiled_again(checkout: Path) -> None:
    """The copy brings the bytecode of the unchanged module, whose time and size may be the mutant's."""
    mutant = Mutant("a rule", "agent/code.py", "left > right", "left < right", TESTS)
    origin = checkout / "origin"
    assert control([mutant], origin, limit_s=15.0) == ""
    assert list(origin.glob("agent/__pycache__/code.*"))
    assert judge(mutant, origin, limit_s=15.0).outcome == "killed"


@pytest.mark.parametrize("mutant", mutant_list.MUTANTS, ids=lambda mutant: mutant.rule)
def test_each_mutant_fits_the_code(mutant: Mutant) -> None:
    """The text that a mutant changes stands once in its file, and the tests that it names exist."""
    assert (REPOSITORY / mutant.path).read_text("utf-8").count(mutant.old) == 1
    for test in mutant.tests:
        assert (REPOSITORY / test.partition("::")[0]).is_file(), test
