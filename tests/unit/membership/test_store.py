"""The node's identity on disk, and the gossip key."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.common.errors import ConfigError, Corrupt, DiskFailed
from agent.membership.store import Identity, IdentityStore, read_key


def test_each_life_has_its_own_boot_and_the_disk_keeps_its_uuid(tmp_path: Path) -> None:
    path = tmp_path / "membership" / "identity.json"
    lives = [IdentityStore(path).begin_life() for _ in range(3)]
    assert [life.boot for life in lives] == [1, 2, 3]
    assert len({life.uuid for life in lives}) == 1
    IdentityStore(path).write(Identity(lives[0].uuid, 40))
    assert IdentityStore(path).begin_life().boot == 41


def test_a_crash_while_writing_leaves_the_earlier_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    first = IdentityStore(path).begin_life()
    path.with_suffix(".new").write_text('{"uuid": "ab')
    assert IdentityStore(path).begin_life() == Identity(first.uuid, 2)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"uuid": "xyz", "boot": 1}', '{"uuid": "' + "ab" * 16 + '", "boot": 0}']
)
def test_a_damaged_identity_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(content)
    with pytest.raises(Corrupt, match="identity"):
        IdentityStore(path).begin_life()
    assert path.read_text() == content


def test_a_folder_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFailed, match="cannot be read"):
        IdentityStore(tmp_path / "file" / "identity.json").begin_life()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "identity.new").mkdir()
    with pytest.raises(DiskFailed, match="cannot be written"):
        IdentityStore(tmp_path / "new" / "identity.json").begin_life()


def test_the_gossip_key(tmp_path: Path) -> None:
    path = tmp_path / "gossip.key"
    path.write_text("ab" * 32 + "\n")
    assert read_key(str(path)) == b"\xab" * 32
    for content in ("", "ab" * 31, "zz" * 32):
        path.write_text(content)
        with pytest.raises(ConfigError, match="gossip key"):
            read_key(str(path))
    with pytest.raises(ConfigError, match="cannot be used"):
        read_key(str(tmp_path / "missing"))
