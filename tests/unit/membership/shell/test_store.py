"""The node's identity and its ring of gossip keys, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.common.errors import ConfigError, Corrupt, DiskFailed
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.shell.store import Identity, IdentityStore, KeyStore, VoterStore
from tests.simulation.machine.powercut import power_cuts

NAMES = ("n1", "n2", "n3")


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
    (tmp_path / "identity.json.new").write_text('{"uuid": "ab')
    assert IdentityStore(path).begin_life() == Identity(first.uuid, 2)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "[" * 100_000,
        '{"uuid": "xyz", "boot": 1}',
        '{"uuid": "' + "ab" * 16 + '", "boot": 0}',
        '{"uuid": "' + "ab" * 16 + '", "boot": "1"}',
        '{"uuid": "' + "ab" * 16 + '", "boot": 1e30}',
        '{"uuid": "' + "AB" * 16 + '", "boot": 1}',
    ],
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
    (tmp_path / "new" / "identity.json.new").mkdir()
    with pytest.raises(DiskFailed, match="cannot be written"):
        IdentityStore(tmp_path / "new" / "identity.json").begin_life()


def test_the_configured_gossip_key_is_the_ring_until_another_one_is_stored(tmp_path: Path) -> None:
    configured, stored = tmp_path / "gossip.key", tmp_path / "membership" / "gossip.keys"
    configured.write_text("ab" * 32 + "\n")
    store = KeyStore(stored, configured)
    assert store.load().keys == (b"\xab" * 32,)
    ring = store.load().install(b"\xcd" * 32)
    store.save(ring)
    assert stored.stat().st_mode & 0o777 == 0o600
    assert store.load() == ring
    store.save(KeyRing((b"\xcd" * 32,)))
    assert store.load().keys == (b"\xcd" * 32,), "the configured key no longer counts"


def test_a_key_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gossip.key"
    for content in ("", "ab" * 31, "zz" * 32, "\xff"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="gossip key"):
            KeyStore(tmp_path / "none", path).load()
    with pytest.raises(ConfigError, match="cannot be used"):
        KeyStore(tmp_path / "none", tmp_path / "missing").load()


def test_no_power_cut_lets_two_boots_share_an_id(seed: int) -> None:
    path = Path("/data/membership/identity.json")
    spoken: list[Identity] = []

    def live() -> None:
        spoken.clear()
        for _ in range(3):
            spoken.append(IdentityStore(path).begin_life())

    for moment in power_cuts(live, seed=seed, lucks=20):
        later = IdentityStore(path).begin_life()
        assert later not in spoken, str(moment)
        assert all(later.uuid == each.uuid for each in spoken), str(moment)


def test_voters_are_kept_until_they_change(tmp_path: Path) -> None:
    path = tmp_path / "membership" / "voters.json"
    store = VoterStore(path)
    assert store.load(NAMES) == ()
    store.save(["n1", "n2"])
    path.unlink()
    store.save(["n1", "n2"])
    assert not path.exists(), "the same names are not written again"
    store.save(("n1", "n3"))
    assert json.loads(path.read_text()) == ["n1", "n3"], "a list of names, as earlier releases wrote it"
    assert VoterStore(path).load(NAMES) == ("n1", "n3")


@pytest.mark.parametrize(
    "content", ["", "{}", '"n1"', "[1]", '[""]', "[null]", '["n1", "n9"]', "[" * 100_000, "\xff"]
)
def test_damaged_file_of_voters_leaves_the_configured_ones(tmp_path: Path, content: str) -> None:
    path = tmp_path / "voters.json"
    path.write_bytes(content.encode("latin-1"))
    assert VoterStore(path).load(NAMES) == ()
