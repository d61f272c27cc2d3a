"""Releases and their names; tests/lab/test_deploy.py builds and installs the archive itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.common.errors import ConfigError
from ops.deploy import wheelhouse
from ops.deploy.wheelhouse import Target
from tests.support import REPOSITORY


def test_the_name_of_a_release_changes_with_any_source_and_with_nothing_else(tmp_path: Path) -> None:
    for path in wheelhouse.sources():
        copy = tmp_path / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, copy)
    first = wheelhouse.release_name(tmp_path)
    (tmp_path / "README.md").write_text("other words")
    (tmp_path / "agent" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "agent" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert wheelhouse.release_name(tmp_path) == first
    names = {first}
    for changed in ("agent/wire/client.py", "requirements/agent.lock", "pyproject.toml"):
        with (tmp_path / changed).open("a") as file:
            file.write("# changed\n")
        names.add(wheelhouse.release_name(tmp_path))
    (tmp_path / "agent" / "new.py").touch()
    names.add(wheelhouse.release_name(tmp_path))
    assert len(names) == 5


def test_pip_is_taken_from_the_lock_with_its_hashes() -> None:
    entries = ("pip==1.0", "--hash=sha256:aa", "--hash=sha256:bb"), ("pip-tools==2.0", "--hash=sha256:cc")
    lock = "".join(" \\\n    ".join(entry) + "\n" for entry in entries)
    assert wheelhouse.locked("pip", lock).split() == [
        *("pip==1.0", "\\", "--hash=sha256:aa", "\\", "--hash=sha256:bb")
    ]
    assert "--hash" in wheelhouse.locked("pip", wheelhouse.TOOLS_LOCK.read_text("utf-8"))
    with pytest.raises(ConfigError, match="does not contain nothing"):
        wheelhouse.locked("nothing", lock)


def test_wheels_are_chosen_for_the_vms_and_not_for_the_controller() -> None:
    options = Target("3.12", "aarch64", "2.31").pip_options()
    assert "manylinux_2_31_aarch64" in options
    assert "manylinux_2_17_aarch64" in options
    assert "manylinux_2_34_aarch64" not in options
    assert options[options.index("--python-version") + 1] == "3.12"


def test_the_same_wheels_make_the_same_archive(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        folder.mkdir()
        wheel = folder / "a.whl"
        wheel.write_bytes(b"wheel")
        wheel.touch()
        wheel.chmod(0o600 + number * 0o44)
        wheelhouse._pack(tmp_path / f"{name}.tar", [wheel])
    sums = {wheelhouse.sha256(tmp_path / f"{name}.tar") for name in ("first", "second")}
    assert len(sums) == 1


def test_old_archives_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelhouse, "FOLDER", tmp_path)
    for number in range(wheelhouse.ARCHIVES_MAX + 2):
        archive = tmp_path / f"release-{number}" / "py.tar"
        archive.parent.mkdir()
        archive.touch()
        os.utime(archive, (number, number))
    wheelhouse._remove_oldest()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"release-{number}" for number in range(2, wheelhouse.ARCHIVES_MAX + 2)
    }
