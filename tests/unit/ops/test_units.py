"""The units that the roles write: hardened as promised, and accepted by systemd."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.support import REPOSITORY

ROLES = REPOSITORY / "roles"
AGENTS = ("membership", "hydfs", "rainstorm", "logs")
# systemd-analyze uses tenths: 20 is an exposure of 2.0, "OK"; a unit without hardening has 9.6.
EXPOSURE_MAX = 20
VALUES = {
    "inventory_hostname": "vm1",
    "rainstorm_cluster": "test",
    "common_processes_max": 100,
    "rainstorm_tasks_cpu_weight": 50,
    "rainstorm_tasks_memory_max": "75%",
    "rainstorm_tasks_processes_max": 100,
}


def render(path: Path, **values: Any) -> str:
    """Returns the text that Ansible would write; the templates of the units use only plain Jinja."""
    environment = jinja2.Environment(
        trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(path.read_text("utf-8")).render(**VALUES, **values)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all units where systemd looks for them."""
    folder = tmp_path_factory.mktemp("units")
    units = folder / "etc" / "systemd" / "system"
    hardening = units / "rainstorm-.service.d"
    hardening.mkdir(parents=True)
    (hardening / "hardening.conf").write_text(render(ROLES / "common/templates/hardening.conf.j2"))
    for template in ROLES.glob("*/templates/rainstorm*.j2"):
        (units / template.stem).write_text(render(template))
    for agent in AGENTS:
        (tasks,) = yaml.safe_load((ROLES / agent / "tasks/main.yml").read_text("utf-8"))
        text = render(ROLES / "common/templates/agent.service.j2", common_agent=tasks["vars"]["common_agent"])
        (units / f"rainstorm-{agent}.service").write_text(text)
    return folder


@pytest.mark.parametrize("unit", [*AGENTS, "tasks"])
def test_a_unit_is_hardened(root: Path, unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--root={root}"]
    done = subprocess.run(
        [*command, f"--threshold={EXPOSURE_MAX}", f"rainstorm-{unit}.service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_systemd_knows_every_line(root: Path) -> None:
    """systemd ignores an option that is misspelled, or too new for Debian 12, with only a warning."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    units = root / "etc" / "systemd" / "system"
    files = sorted(str(path) for path in units.glob("rainstorm*") if path.is_file())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
    )
    # The program is not installed on this machine, which is not the unit's fault.
    said = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert said == []


def test_user_code_sees_no_keys_and_has_its_own_slice(root: Path) -> None:
    unit = (root / "etc/systemd/system/rainstorm-tasks.service").read_text()
    for line in ("User=rainstorm-task", "Slice=rainstorm-tasks.slice", "KillMode=control-group"):
        assert f"\n{line}\n" in unit
    hidden = next(line for line in unit.splitlines() if line.startswith("InaccessiblePaths="))
    assert all(path in hidden for path in ("/etc/rainstorm", "/var/lib/rainstorm", "/var/log/rainstorm"))
