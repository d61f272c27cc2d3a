"""A sandbox: a copy of the checkout in which mutants are made, and a server that runs tests in it.

The copy keeps the bytecode of its modules, so that a mutant compiles only the module that it changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.gates.mutant import Mutant, UnfitMutantError

COPIED = ("agent", "ops", "tests", "pyproject.toml", "jobs", "inventory")
SERVER = Path(__file__).with_name("testserver.py")
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TestRun:
    """The result of a run of tests; the module ``testserver`` describes the fields."""

    __test__ = False

    outcome: str
    failed: str
    passed: list[str]
    seconds: float


class Sandbox:
    """A copy of ``checkout`` with a test server; use it in one thread, in a ``with`` block."""

    def __init__(self, checkout: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-")
        self.root = Path(self._folder.name) / "checkout"
        self.root.mkdir()
        for name in COPIED:
            source = checkout / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, self.root / name)
        environment = {**os.environ, "PYTHONPATH": str(self.root), "TMPDIR": self._folder.name}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._server = subprocess.Popen(
            # Without -P the folder of the script would hide libraries that have the name of a gate.
            [sys.executable, "-P", str(SERVER)],
            cwd=self.root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._server:
            assert self._server.stdin is not None
            with contextlib.suppress(OSError):
                self._server.stdin.close()
            try:
                self._server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
        self._folder.cleanup()

    def run(self, tests: Sequence[str], limit_s: float) -> TestRun:
        """Runs tests in the copy as it is now, until the first one fails or the time limit is reached."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.write(json.dumps({"tests": list(tests), "limit_s": limit_s}) + "\n")
            self._server.stdin.flush()
            line = self._server.stdout.readline()
        if not line:
            return TestRun("the test server has ended", "", [], 0.0)
        answer: dict[str, Any] = json.loads(line)
        return TestRun(**answer)

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Makes a mutant in the copy, and removes it at the end of the ``with`` block.

        Raises:
            UnfitMutantError: the mutant does not fit the code.
        """
        path = self.root / mutant.path
        if not path.is_file():
            raise UnfitMutantError(f"no file {mutant.path}")
        text = path.read_text("utf-8")
        changed = mutant.change(text)
        try:
            _write(path, changed)
            yield
        finally:
            _write(path, text)


def _write(path: Path, text: str) -> None:
    """Writes a module; Python checks bytecode by a time in seconds and a size, which may both be the same."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()
    path.write_text(text, "utf-8")
