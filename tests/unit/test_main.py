"""The entry point: exit statuses and messages for configurations that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.__main__ import main


def write(folder: Path, **changes: object) -> str:
    tls = {"ca": "ca.pem", "certificate": "n1.pem", "key": "n1.key"}
    config = {
        "cluster": "test",
        "name": "n1",
        "data_dir": str(folder),
        "tls": tls,
        "gossip_key": str(folder / "gossip.key"),
        "peers": [{"name": "n1", "address": "127.0.0.1"}],
        "voters": ["n1"],
        "introducers": ["n1"],
        **changes,
    }
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_a_valid_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["membership", "--config", write(tmp_path), "--check-config"]) == 0
    assert "node n1 of cluster test: valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clutser": "x"}, "did you mean 'cluster'?"),
        ({"membership": {"probe_intervall_s": 1}}, "did you mean 'probe_interval_s'?"),
        ({"rainstorm": {"task_launcher": "systemd"}}, "known: child, unit"),
        ({"voters": ["n7"]}, "node 'n7' is not among the configured peers"),
        ({"data_dir": 5}, "expected str, found 5"),
    ],
)
def test_a_wrong_one_ends_with_ex_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], said: str
) -> None:
    assert main(["membership", "--config", write(tmp_path, **changes), "--check-config"]) == 78
    found = capsys.readouterr().err
    assert "[CONFIG_INVALID]" in found
    assert said in found


def test_a_missing_file_and_an_unknown_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["membership", "--config", str(tmp_path / "none.yaml")]) == 78
    assert "no configuration at" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["storage", "--config", "x"])
    assert caught.value.code == 2
