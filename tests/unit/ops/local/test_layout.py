"""The files of a local cluster: configurations that the agents accept, created once and kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.common import config
from agent.common.errors import ConfigError, Conflict
from agent.wire import auth
from ops.local.layout import Layout, voter_count


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty layout."""
    return Layout(tmp_path / "c", tmp_path / "inventory", first_address="127.0.3.1")


@pytest.mark.parametrize(("nodes", "voters"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (10, 5)])
def test_voters(layout: Layout, nodes: int, voters: int) -> None:
    assert voter_count(nodes) == voters
    layout.prepare(nodes)
    for name in ("vm1", f"vm{nodes}"):
        read = config.load(str(layout.config_path(name)))
        assert read.voters == tuple(f"vm{i + 1}" for i in range(voters))
        assert read.introducers == tuple(f"vm{i + 1}" for i in range(min(nodes, 3)))
        assert read.me.name == name
        auth.server_context(read.tls)


def test_addresses_follow_each_other(layout: Layout) -> None:
    assert [peer.address for peer in layout.peers(3)] == ["127.0.3.1", "127.0.3.2", "127.0.3.3"]


def test_secrets_are_for_their_owner_only(layout: Layout) -> None:
    layout.prepare(1)
    keys = [*layout.folder.rglob("*.key")]
    assert len(keys) == 4  # authority, operator, vm1, gossip
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_preparing_again_keeps_keys_and_data(layout: Layout) -> None:
    layout.prepare(3)
    kept = {path: path.read_bytes() for path in layout.folder.rglob("*.key")}
    data = layout.node_folder("vm2") / "blocks"
    data.write_bytes(b"acked")
    layout.prepare(4)
    assert {path: path.read_bytes() for path in kept} == kept
    assert data.read_bytes() == b"acked"


def test_wiping_removes_the_cluster_and_nothing_else(layout: Layout) -> None:
    layout.prepare(3)
    layout.write_state({"nodes": 3})
    other = layout.folder / "input.csv"
    other.write_text("kept")
    layout.wipe()
    assert sorted(layout.folder.iterdir()) == [other]
    assert not layout.inventory_path.exists()


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_an_impossible_size_is_refused(layout: Layout, nodes: int) -> None:
    with pytest.raises(ConfigError, match="1 to 64 nodes"):
        layout.check(nodes, keeps_data=False)


def test_a_path_too_long_for_a_unix_socket_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / ("x" * 100), tmp_path / "inventory")
    with pytest.raises(ConfigError, match="too long"):
        layout.check(3, keeps_data=True)


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5), (10, 7), (1, 3)])
def test_data_of_other_voters_or_more_nodes_is_not_taken_over(
    layout: Layout, before: int, after: int
) -> None:
    layout.prepare(before)
    layout.write_state({"nodes": before})
    with pytest.raises(Conflict, match=f"cluster of {before} nodes"):
        layout.check(after, keeps_data=True)
    layout.check(after, keeps_data=False)


def test_a_cluster_may_grow_while_its_voters_stay(layout: Layout) -> None:
    layout.prepare(5)
    layout.write_state({"nodes": 5})
    layout.check(8, keeps_data=True)


def test_half_written_state_is_ignored(layout: Layout) -> None:
    layout.prepare(1)
    layout.state_path.write_text('{"nodes": 5, "age')
    assert layout.read_state() == {}
