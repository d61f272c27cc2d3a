"""The Ansible module that writes a node's files: atomically, checked first, without showing secrets."""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import pwd
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args  # type: ignore[import-untyped]

from tests.support import REPOSITORY


@pytest.fixture(scope="module")
def files() -> ModuleType:
    """The module's code."""
    path = REPOSITORY / "roles/common/library/rainstorm_files.py"
    spec = importlib.util.spec_from_file_location("rainstorm_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """Runs the module as Ansible does."""

    def __init__(self, code: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        self._code = code
        self._capsys = capsys

    def __call__(self, *entries: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        mine = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
        arguments = {"files": [{**mine, **entry} for entry in entries], **options}
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            self._code.main()
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture
def run(files: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(files, capsys)


def test_only_what_differs_is_written(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a", tmp_path / "b"
    second.write_text("same\n")
    second.chmod(0o644)
    entries = (
        {"path": str(first), "content": "key\n", "mode": "0600"},
        {"path": str(second), "content": "same\n"},
    )
    assert run(*entries, check=True)["paths"] == [str(first)]
    assert not first.exists()
    assert run(*entries)["paths"] == [str(first)]
    assert (first.read_text(), stat.S_IMODE(first.stat().st_mode)) == ("key\n", 0o600)
    assert run(*entries)["changed"] is False
    second.chmod(0o666)
    assert run(*entries)["paths"] == [str(second)]


def test_a_file_that_is_refused_stays_as_it_was(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "node.yml"
    path.write_text("good\n")
    entry = {"path": str(path), "content": "bad\n", "validate": "/bin/grep -q good %s"}
    for check in (True, False):
        found = run(entry, check=check)
        assert found["failed"] is True
        assert f"{path} was rejected and not changed" in found["msg"]
    assert path.read_text() == "good\n"
    assert [each.name for each in tmp_path.iterdir()] == ["node.yml"]


def test_secrets_are_not_shown(run: Run, tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "key"), "content": "hush-hush\n"}
    assert "hush" in json.dumps(run(entry, check=True)["diff"])
    assert "hush" not in json.dumps(run(entry, secret=True)["diff"])
