"""Runs tests in processes that already have all libraries (a script, run by ``Sandbox``).

The server imports pytest and the libraries of the project once. For each request it forks a child, and the
child imports the project and runs the tests: most tests of one module take less time than these imports.
The server itself imports nothing of the project, so a child always runs the files as they are now.

A request is a line of JSON on stdin with ``tests`` and ``limit_s``. The answer is a line of JSON on stdout:

    outcome: 'passed', 'failed', 'hung' if the tests did not end within the limit, or the problem
    failed:  the first test that failed, or ''
    passed:  the tests that passed
    seconds: how long it took
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest

LIBRARIES = (
    "cryptography.x509",
    "hypothesis.strategies",
    "mmh3",
    "msgpack",
    "msgspec.json",
    "numpy",
    "pyarrow",
    "rich.table",
    "yaml",
)
# The plugins to load. Those that pytest would find by itself cost time, and these tests do not need them.
PLUGINS = ("pytest_timeout", "_hypothesis_pytestplugin")
# One seed for all runs, so that chance does not decide whether a mutant is killed.
SEED = "1"
OUTCOMES = {pytest.ExitCode.OK: "passed", pytest.ExitCode.TESTS_FAILED: "failed"}
EXIT_TIMEOUT_S = 10.0


class Record:
    """A plugin of pytest that notes which test failed first and which passed."""

    def __init__(self) -> None:
        self.failed = ""
        self.passed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the outcome of a test, its setup or its teardown."""
        if report.failed and not self.failed:
            self.failed = report.nodeid
        if report.passed and report.when == "call":
            self.passed.append(report.nodeid)


def run_here(tests: list[str], answer: Connection) -> None:
    """Runs tests in this process, answers, and ends the process without waiting for any thread."""
    os.setsid()
    output = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(output, descriptor)
    random.seed()
    record = Record()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--tb=no", "--timeout=0", f"--hypothesis-seed={SEED}"]
    options += [option for plugin in PLUGINS for option in ("-p", plugin)]
    # The libraries were imported before pytest could rewrite their assertions.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    try:
        code = pytest.ExitCode(pytest.main([*options, *tests], plugins=[record]))
        outcome = OUTCOMES.get(code, f"pytest ended with {code.name}")
    except BaseException as error:  # the leftovers of a failed test may break the end of pytest
        outcome = "failed" if record.failed else f"pytest raised {error!r}"
    answer.send((outcome, record.failed, record.passed))
    kill_children(psutil.Process())
    os._exit(0)


def kill_children(process: psutil.Process) -> None:
    """Kills all descendants of a process."""
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def run(tests: list[str], limit_s: float) -> dict[str, Any]:
    """Runs tests in a child; returns the answer."""
    began = time.monotonic()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=run_here, args=(tests, theirs))
    child.start()
    theirs.close()
    try:
        outcome, failed, passed = ours.recv() if ours.poll(limit_s) else ("hung", "", [])
    except EOFError:
        child.join(EXIT_TIMEOUT_S)
        outcome, failed, passed = f"the tests' process ended with {child.exitcode}", "", []
    if child.is_alive():
        if outcome == "hung":
            kill_children(psutil.Process(child.pid))
            child.kill()
        child.join(EXIT_TIMEOUT_S)
        child.kill()
        child.join()
    child.close()
    ours.close()
    seconds = time.monotonic() - began
    return {"outcome": outcome, "failed": failed, "passed": passed, "seconds": seconds}


def serve() -> None:
    """Imports the libraries and serves requests until stdin ends."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["RAINSTORM_SEED"] = SEED
    for name in (*LIBRARIES, *PLUGINS):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["tests"], request["limit_s"])), flush=True)


if __name__ == "__main__":
    serve()
