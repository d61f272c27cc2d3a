"""Each Ansible role has a README that describes it and names every variable that an operator may set."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import REPOSITORY

ROLES = sorted(folder for folder in (REPOSITORY / "roles").iterdir() if folder.is_dir())


def unnamed(text: str, variables: dict[str, object]) -> list[str]:
    """Returns the variables that no table row of a README names with their default.

    A default that is a template is described in words, because its text would tell a reader nothing.
    """
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| `")}
    missing = []
    for name, value in variables.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        cell = rows.get(f"`{name}`", "")
        if not cell or ("{{" not in shown and f"`{shown}`" not in cell.split("|")[2]):
            missing.append(name)
    return missing


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_a_role_has_a_readme_with_its_variables(role: Path) -> None:
    text = (role / "README.md").read_text("utf-8")
    assert text.startswith(f"# Role `{role.name}`\n")
    for heading in ("## Variables", "## Needs", "## Leaves behind"):
        assert heading in text
    variables = yaml.safe_load((role / "defaults" / "main.yml").read_text("utf-8"))
    assert unnamed(text, variables) == []


def test_a_missing_variable_and_a_wrong_default_are_found() -> None:
    text = "| `one` | `1` | the first |\n| `two` | `3` | the second |\n"
    assert unnamed(text, {"one": 1}) == []
    assert unnamed(text, {"one": 1, "two": 2, "three": 3}) == ["two", "three"]
