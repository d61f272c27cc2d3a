"""The node's configuration: a mistake is refused with its place and the nearest word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.common.config import load
from agent.common.errors import ConfigError

GOOD: dict[str, Any] = {
    "cluster": "test",
    "name": "vm1",
    "data_dir": "/tmp/vm1",
    "tls": {"ca": "ca.pem", "certificate": "vm1.pem", "key": "vm1.key"},
    "gossip_key": "gossip.key",
    "peers": [{"name": "vm1", "address": "127.0.0.1"}, {"name": "vm2", "address": "127.0.0.2"}],
    "voters": ["vm1"],
    "introducers": ["vm1"],
}


def _load(tmp_path: Path, value: Any) -> Any:
    path = tmp_path / "node.yml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return load(str(path))


def test_a_good_configuration_has_defaults_for_the_rest(tmp_path: Path) -> None:
    """Only what differs from node to node has to be written."""
    config = _load(tmp_path, GOOD)
    assert config.me.rainstorm_port == 7102
    assert config.hydfs.replicas == 3
    assert config.socket_path("hydfs") == "/tmp/vm1/run/hydfs.sock"


def test_json_and_other_yaml_say_the_same(tmp_path: Path) -> None:
    value = {**GOOD, "membership": {"probe_interval_s": 0.25}, "log_level": "debug"}
    assert _load(tmp_path, json.dumps(value)) == _load(tmp_path, yaml.safe_dump(value))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hydsf": {}}, ["unknown key 'hydsf'", "'hydfs'"]),
        ({"hydfs": {"block_size": 1}}, ["hydfs", "unknown key 'block_size'", "'block_size_bytes'"]),
        ({"hydfs": {"replicas": "three"}}, ["hydfs.replicas", "expected int", "'three'"]),
        ({"hydfs": {"replicas": True}}, ["hydfs.replicas", "expected int"]),
        ({"hydfs": {"replicas": -1}}, ["hydfs.replicas", "0 or more"]),
        ({"hydfs": {"ack": "alll"}}, ["hydfs.ack", "unknown ack 'alll'", "all"]),
        ({"hydfs": {"replicas": 0}}, ["hydfs.replicas", "at least 1"]),
        ({"membership": {"probe_interval_s": float("nan")}}, ["probe_interval_s", "0 or more"]),
        ({"membership": {"probe_interval_s": float("inf")}}, ["probe_interval_s", "0 or more"]),
        ({"logs": {"spool_bytes": 0}}, ["logs.spool_bytes", "at least 1"]),
        ({"log_dir": 3}, ["log_dir", "expected str"]),
        ({"voters": []}, ["voters", "names no node"]),
        ({"membership": {"probe_interval_s": "1"}}, ["membership.probe_interval_s", "expected float"]),
        ({"peers": {}}, ["peers", "expected a list"]),
        ({"peers": [{"name": "vm1"}]}, ["peers[0]", "missing key 'address'"]),
        ({"peers": GOOD["peers"] * 2}, ["share a name"]),
        ({"voters": ["vm9"]}, ["'vm9'"]),
        ({"name": "vm9"}, ["'vm9'"]),
        ({"tls": []}, ["tls", "expected a mapping"]),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    """Unknown keys, wrong types, wrong names: each error says where and what was expected."""
    with pytest.raises(ConfigError) as refused:
        _load(tmp_path, {**GOOD, **change})
    said = f"{refused.value.message} {refused.value.hint}"
    assert all(word in said for word in words), said


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """Every key without a default must be there."""
    for key in GOOD:
        with pytest.raises(ConfigError, match=f"missing key '{key}'"):
            _load(tmp_path, {name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("text", ["{", "- 1", "", "a: b: c", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    """Broken YAML, a list and an empty file are configuration errors, not tracebacks."""
    with pytest.raises(ConfigError):
        _load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path that was tried is in the error."""
    with pytest.raises(ConfigError, match=r"absent\.yml"):
        load(str(tmp_path / "absent.yml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path))


def test_folders_and_sockets_lie_below_the_data_folder_unless_they_are_named(tmp_path: Path) -> None:
    config = _load(tmp_path, GOOD)
    assert config.socket_path("logs") == f"{config.data_dir}/run/logs.sock"
    assert config.log_folder() == Path(config.data_dir) / "logs"
    named = _load(tmp_path, {**GOOD, "run_dir": "/run/x", "log_dir": "/var/log/x"})
    assert named.socket_path("logs") == "/run/x/logs.sock"
    assert named.log_folder() == Path("/var/log/x")
    assert config.membership.probe_duration_s >= config.membership.probe_interval_s
