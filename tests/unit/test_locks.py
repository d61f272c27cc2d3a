"""The lock files install the same bytes everywhere: exact versions and hashes, without their origin."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support import REPOSITORY

LOCKS = ("agent", "all")


def pins(name: str) -> dict[str, str]:
    """Returns package → version of a lock file; each must carry a hash."""
    text = (REPOSITORY / "requirements" / f"{name}.lock").read_text("utf-8")
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text).strip()):
        match = re.match(r"([a-z0-9.-]+)==(\S+)", entry)
        assert match, f"not an exact version: {entry[:80]!r}"
        assert "--hash=sha256:" in entry, f"no hash: {entry[:80]!r}"
        found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_place(name: str) -> None:
    """A lock file holds no address, host or folder of the machine that made it."""
    text = (REPOSITORY / "requirements" / f"{name}.lock").read_text("utf-8")
    assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host|/opt|/tmp", text)


def test_agents_run_what_was_tested() -> None:
    """Every package of the agents has the same version in the lock that the tests run with."""
    tested = pins("all")
    assert {name: tested.get(name) for name in pins("agent")} == pins("agent")


def test_every_dependency_is_locked_and_explained() -> None:
    """Every requirement in pyproject.toml is locked, and docs/dependencies.md explains it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    groups = {"agent": project["dependencies"], "all": extras}
    explained = (REPOSITORY / "docs" / "dependencies.md").read_text("utf-8").lower()
    for lock, wanted in groups.items():
        names = {re.split(r"[<>=!\[; ]", name)[0].lower() for name in wanted}
        assert names <= set(pins(lock))
        assert [name for name in sorted(names) if f"**{name}**" not in explained] == []
