"""All obstacles to a deploy are named at once, in plain words, before any VM is changed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPOSITORY

BIN = Path(sys.executable).parent
CLUSTER = "preflight-test"
SECRETS = REPOSITORY / ".rainstorm" / CLUSTER


def run(program: str, *arguments: str) -> tuple[int, str]:
    """Returns the exit status of one of Ansible's programs, and its output in one line."""
    done = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def write(path: Path, hosts: dict[str, Any], groups: dict[str, Any], **variables: Any) -> str:
    """Writes an inventory whose VMs are this machine, and returns its path."""
    groups = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
    variables = {"ansible_connection": "local", "ansible_become": False, **variables}
    path.write_text(yaml.safe_dump({"all": {"vars": variables, "hosts": hosts, "children": groups}}))
    return str(path)


def operator(folder: Path) -> dict[str, str]:
    """Returns the variables that name the operator's files, relative to an inventory in ``folder``."""
    files = {"ca": "ca/ca.pem", "certificate": "operator/operator.pem", "key": "operator/operator.key"}
    named = {key: os.path.relpath(SECRETS / file, folder) for key, file in files.items()}
    return {f"rainstorm_operator_{key}": path for key, path in named.items()}


@pytest.mark.integration
def test_what_the_inventory_lacks_is_said_at_once(tmp_path: Path) -> None:
    hosts = {
        "VM_1": {"ansible_host": "127.0.9.1"},
        "vm2": {"ansible_host": "127.0.9.2", "hydfs_port": 80},
        "vm3": {"ansible_host": "127.0.9.2", "logs_port": 7100},
    }
    path = write(tmp_path / "vms", hosts, {"voters": ["vm2", "vm3"]})
    status, said = run("ansible-playbook", "deploy.yml", "-i", path)
    assert status != 0
    for problem in (
        "does not name the cluster: set rainstorm_cluster",
        "cannot be node names (lowercase letters, digits, dashes): VM_1",
        "Two VMs have the same address: vm2 and vm3 are both 127.0.9.2",
        "has no introducers",
        "group voters has 2 VMs",
        "hydfs_port of vm2 is 80",
        "Two services of vm3 share a port",
    ):
        assert problem in said
    assert "Inspect the VM" not in said


@pytest.mark.integration
def test_a_name_that_appears_twice_is_no_second_vm(tmp_path: Path) -> None:
    (tmp_path / "vms").write_text("all:\n  hosts:\n    vm1: {ansible_host: 127.0.9.1}\n    vm1: {}\n")
    status, said = run("ansible-inventory", "-i", str(tmp_path / "vms"), "--list")
    assert status != 0
    assert "duplicate mapping key 'vm1'" in said


@pytest.mark.integration
def test_what_stands_in_the_way_on_vms_is_said_of_all_of_them(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\necho \'{"version": [3, 9, 2], "glibc": "2.31", "venv": true}\'\n')
    old.chmod(0o755)
    hosts = {
        "vm1": {"ansible_host": "127.0.9.1", "common_disk_min_mib": 10**9},
        "vm2": {"ansible_host": "127.0.9.2", "common_python": str(old)},
        "vm3": {"ansible_host": "127.0.9.3", "ansible_connection": "ssh", "ansible_port": 9},
        "vm4": {"ansible_host": "198.51.100.7"},
    }
    values = {"rainstorm_cluster": CLUSTER, **operator(tmp_path)}
    path = write(tmp_path / "vms", hosts, {"introducers": ["vm1"]}, **values)
    with socket.create_server(("127.0.9.1", 7101)):
        status, said = run("ansible-playbook", "deploy.yml", "-i", path)
    assert status != 0
    for problem in (
        "vm1 (127.0.9.1): ",
        "the disk is too full: ",
        "port 7101 of hydfs is taken by ",
        "Python is too old: " + str(old) + " is 3.9.2, RainStorm needs 3.11",
        "vm3 (127.0.9.3): it cannot be reached: ssh: connect to host 127.0.9.3 port 9",
        "198.51.100.7 is not an address of this machine",
    ):
        assert problem in said
    assert "Create the cluster's authority" not in said
    assert not SECRETS.exists()
