"""A parallel run begins with the longest tests, and one worker runs the tests that share a cluster."""

from __future__ import annotations

import pytest

from tests import scheduling
from tests.support import REPOSITORY


@pytest.mark.parametrize("file", scheduling.LONGEST)
def test_the_longest_files_exist(file: str) -> None:
    assert (REPOSITORY / file).is_file()


@pytest.mark.parametrize(
    ("test", "unit"),
    [
        ("tests/lab/test_lab.py::test_a", "tests/lab"),
        ("tests/integration/test_local_cluster.py::test_a[x]", "tests/integration/test_local_cluster.py"),
        ("tests/integration/test_demo.py::test_a[x]", "tests/integration/test_demo.py::test_a[x]"),
        ("tests/programs/test_leaks.py::test_a", "tests/programs/test_leaks.py"),
        ("tests/simulation/test_store.py::test_a[1]", "tests/simulation/test_store.py::test_a[1]"),
        ("tests/unit/test_main.py::test_a", "tests/unit/test_main.py"),
    ],
)
def test_what_is_run_together(test: str, unit: str) -> None:
    assert scheduling.unit_of(test) == unit


def test_programs_are_run_before_simulations_and_those_before_units() -> None:
    files = [
        "tests/unit/test_main.py",
        "tests/simulation/test_store.py::test_a",
        "tests/integration/test_logs.py",
        "tests/programs/test_ansible_lint.py::test_a",
    ]
    assert sorted(files, key=scheduling.place_of) == files[::-1]
