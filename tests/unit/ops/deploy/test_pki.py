"""A deployed cluster's secrets: created once, renewed in time, never incomplete."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path

import pytest
import yaml

from agent.common.errors import ConfigError
from ops.cluster import inventory
from ops.deploy import pki


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory of two VMs, with a folder for their secrets that belongs to the test."""
    monkeypatch.setattr(pki, "FOLDER", tmp_path / "secrets")
    return write(tmp_path / "vms", "vm1", "vm2")


def write(path: Path, *names: str) -> Path:
    files = {f"rainstorm_operator_{key}": f"{key}.pem" for key in ("ca", "certificate", "key")}
    hosts = {name: {"ansible_host": f"127.0.0.{number}"} for number, name in enumerate(names, 1)}
    path.write_text(yaml.safe_dump({"all": {"vars": {"rainstorm_cluster": "test", **files}, "hosts": hosts}}))
    return path


def ensure(path: Path, *, renew: bool = False, check: bool = False) -> list[str]:
    return pki.ensure(inventory.load(path), renew=renew, check=check)


def test_everything_is_made_once_and_is_for_its_owner_only(cluster: Path) -> None:
    wanted = ["ca/ca.pem", "gossip.key", "operator/operator.pem", "nodes/vm1/vm1.pem", "nodes/vm2/vm2.pem"]
    assert ensure(cluster, check=True) == wanted
    assert not pki.folder("test").exists()
    assert ensure(cluster) == wanted
    assert ensure(cluster) == []
    secret = [*pki.folder("test").rglob("*.key")]
    assert len(secret) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_a_new_vm_gets_its_own_and_nothing_else_changes(cluster: Path) -> None:
    ensure(cluster)
    before = (pki.folder("test") / "nodes/vm1/vm1.pem").read_bytes()
    assert ensure(write(cluster, "vm1", "vm2", "vm3")) == ["nodes/vm3/vm3.pem"]
    assert (pki.folder("test") / "nodes/vm1/vm1.pem").read_bytes() == before


def test_certificates_are_renewed_when_asked_or_when_they_end_soon(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(cluster)
    certificates = ["operator/operator.pem", "nodes/vm1/vm1.pem", "nodes/vm2/vm2.pem"]
    assert ensure(cluster, renew=True) == certificates
    monkeypatch.setattr(pki, "RENEW_BEFORE", datetime.timedelta(days=10_000))
    assert ensure(cluster) == certificates


def test_certificates_of_another_authority_or_name_are_replaced(cluster: Path) -> None:
    ensure(cluster)
    folder = pki.folder("test")
    for name in ("pem", "key"):
        (folder / f"nodes/vm2/vm2.{name}").write_bytes((folder / f"nodes/vm1/vm1.{name}").read_bytes())
    assert ensure(cluster) == ["nodes/vm2/vm2.pem"]
    for name in ("pem", "key"):
        (folder / f"ca/ca.{name}").unlink()
    assert len(ensure(cluster)) == 4


def test_an_incomplete_authority_is_an_error_and_is_not_replaced(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure(cluster)
    (pki.folder("test") / "ca/ca.key").unlink()
    with pytest.raises(ConfigError, match="is incomplete"):
        ensure(cluster)
    assert pki.main(["--inventory", str(cluster)]) == 2
    assert "restore" in capsys.readouterr().err


def test_the_command_says_what_it_made_and_no_secret(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pki.main(["--inventory", str(cluster)]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["changed"] is True
    assert (pki.folder("test") / "gossip.key").read_text().strip() not in said
    assert pki.main(["--inventory", str(cluster)]) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False, "made": []}
