"""The playbooks and roles satisfy ansible-lint's strictest profile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

LINT = Path(sys.executable).with_name("ansible-lint")


def test_playbooks_and_roles_pass_the_production_profile() -> None:
    ended = subprocess.run(
        [LINT, "--offline", "--nocolor", "--profile", "production", "deploy.yml", "playbooks", "roles"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    assert "Profile 'production' was required, and it passed" in ended.stderr + ended.stdout
