"""Which cluster a command talks to, and the errors for wrong inventory files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.common.errors import ConfigError, NotFound, NotRunning
from ops.cluster import inventory
from ops.local.layout import Layout
from tests.support import REPOSITORY

MINIMAL = """
all:
  vars:
    rainstorm_operator_ca: pki/ca.pem
    rainstorm_operator_certificate: pki/operator.pem
    rainstorm_operator_key: /etc/operator.key
  hosts:
    vm01: {ansible_host: 192.0.2.1}
    vm02: {ansible_host: 192.0.2.2, hydfs_port: 9101}
    vm12:
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "inventory"
    path.write_text(text)
    return path


def test_hosts_ports_and_paths_are_read(tmp_path: Path) -> None:
    found = inventory.load(_write(tmp_path, MINIMAL))
    assert found.names() == ["vm01", "vm02", "vm12"]
    assert found.peers[1].hydfs_port == 9101
    assert found.peers[1].membership_port == 7100
    assert found.peers[2].address == "vm12"
    assert found.tls.ca == str(tmp_path / "pki" / "ca.pem")
    assert found.tls.key == "/etc/operator.key"


@pytest.mark.parametrize(
    ("wanted", "name"), [("1", "vm01"), ("vm1", "vm01"), ("vm01", "vm01"), ("002", "vm02"), ("12", "vm12")]
)
def test_a_node_may_be_named_in_short(tmp_path: Path, wanted: str, name: str) -> None:
    assert inventory.load(_write(tmp_path, MINIMAL)).node(wanted).name == name


def test_a_cluster_can_be_limited_to_some_nodes(tmp_path: Path) -> None:
    found = inventory.load(_write(tmp_path, MINIMAL))
    assert found.only(["12", "vm01"]).names() == ["vm01", "vm12"]
    assert found.gossip_key_path == tmp_path / "gossip.key"
    with pytest.raises(NotFound):
        found.only(["vm01", "vm9"])


@pytest.mark.parametrize("wanted", ["3", "vm", "", "vm012x", "-1"])
def test_an_unknown_node_is_refused(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(NotFound, match="vm01, vm02, vm12"):
        inventory.load(_write(tmp_path, MINIMAL)).node(wanted)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("all: [", "cannot be read"),
        ("just words", "lists no hosts"),
        ("all: {hosts: {}}", "lists no hosts"),
        ("all: {hosts: {vm1: }}", "rainstorm_operator_ca"),
        (MINIMAL.replace("9101", "'many'"), "hydfs_port of vm02"),
        (MINIMAL.replace("9101", "70000"), "hydfs_port of vm02"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        inventory.load(_write(tmp_path, text))


def test_the_choice_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LOCAL_INVENTORY", tmp_path / "local")
    monkeypatch.setattr(inventory, "LOCAL_FOLDER", tmp_path / "folder")
    monkeypatch.setattr(inventory, "LAB_INVENTORY", tmp_path / "lab")
    monkeypatch.setattr(inventory, "VMS_INVENTORY", tmp_path / "vms")
    monkeypatch.delenv(inventory.INVENTORY_VARIABLE, raising=False)
    (tmp_path / "local").write_text(MINIMAL)  # written by a cluster that is now down
    with pytest.raises(NotRunning):
        inventory.find()
    (tmp_path / "vms").write_text(MINIMAL)  # the example inventory, from which nothing was deployed
    with pytest.raises(NotRunning, match="none was deployed"):
        inventory.find()
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "operator.pem").touch()
    assert inventory.find().path == tmp_path / "vms"
    other = tmp_path / "other"
    other.write_text(MINIMAL)
    monkeypatch.setenv(inventory.INVENTORY_VARIABLE, str(other))
    assert inventory.find().path == other
    assert inventory.find(str(tmp_path / "vms")).path == tmp_path / "vms"
    with pytest.raises(ConfigError, match="there is no inventory"):
        inventory.find(str(tmp_path / "absent"))


@pytest.mark.slow
def test_ansible_reads_the_same_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "c", tmp_path / "inventory")
    layout.prepare(5)
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-inventory"), "-i", tmp_path / "inventory", "--list"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        check=True,
    )
    listed = json.loads(done.stdout)
    assert listed["voters"]["hosts"] == inventory.load(tmp_path / "inventory").names()
    assert listed["_meta"]["hostvars"]["vm4"]["ansible_host"] == "127.0.0.4"
    assert listed["_meta"]["hostvars"]["vm4"]["rainstorm_port"] == 7102
    assert REPOSITORY not in tmp_path.parents
