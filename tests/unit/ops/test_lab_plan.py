"""Names and addresses of labs, the key of the base image, the members of a control group."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.common.errors import ConfigError, Unavailable
from ops.cluster import inventory
from ops.lab import base, host, plan, watches
from ops.lab.errors import MissingTool, NeedsRoot
from ops.machine import cgroups


def test_a_lab_has_its_own_subnet_and_gets_it_again() -> None:
    first = plan.make("lab", 10, ())
    assert plan.make("lab", 3, ()).subnet == first.subnet
    second = plan.make("lab", 10, {first.subnet})
    assert second.subnet != first.subnet
    assert first.address("vm10") == f"10.78.{first.subnet}.10"
    assert first.host_address == f"10.78.{first.subnet}.254"
    # Interfaces and chains have names of limited length.
    longest = plan.Plan("x" * 31, 250, plan.VMS_MAX)
    assert len(longest.bridge) <= 15
    assert len(f"vb-{longest.machine('vm20')}") <= 15
    assert len(longest.chain) <= 28
    with pytest.raises(Unavailable):
        plan.make("lab", 1, range(1, 251))


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a/b", "..", "local", "vms", "wheelhouse", "a" * 32])
def test_a_harmful_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        plan.check_name(name)


@pytest.mark.parametrize("vms", [0, -1, plan.VMS_MAX + 1])
def test_a_lab_has_a_bounded_size(vms: int) -> None:
    with pytest.raises(ConfigError):
        plan.make("lab", vms, ())


@pytest.mark.parametrize(("vms", "voters", "introducers"), [(10, 5, 3), (4, 3, 3), (1, 1, 1)])
def test_the_inventory_is_one_that_fab_reads(tmp_path: Path, vms: int, voters: int, introducers: int) -> None:
    made = plan.make("test-x", vms, ())
    content = made.inventory("/k/key", "/k/known_hosts")
    path = tmp_path / "inventory"
    path.write_text(yaml.safe_dump(content))
    found = inventory.load(path)
    assert (found.cluster, found.lab) == ("test-x", "test-x")
    assert {peer.name: peer.address for peer in found.peers} == {n: made.address(n) for n in made.names()}
    assert found.logins["vm1"].key == "/k/key"
    assert found.logins["vm1"].known_hosts == ("/k/known_hosts",)
    groups = content["all"]["children"]
    assert len(groups["voters"]["hosts"]) == voters
    assert len(groups["introducers"]["hosts"]) == introducers
    assert {*groups["voters"]["hosts"], *groups["introducers"]["hosts"]} <= set(made.names())


def test_another_recipe_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.path()
    assert base.path() == before
    monkeypatch.setattr(base, "PACKAGES", [*base.PACKAGES, "less"])
    assert base.path() != before


def test_mounts_are_found_from_the_inside_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "".join(
        f"{number} 1 0:1 / {point} rw - tmpfs tmpfs rw\n"
        for number, point in enumerate(["/", "/l/a", "/l/a/b\\040c", "/l/ab", "/l"])
    )
    (tmp_path / "mountinfo").write_text(table)
    monkeypatch.setattr(host, "MOUNTS", tmp_path / "mountinfo")
    assert host.mounts_below(Path("/l/a")) == ["/l/a/b c", "/l/a"]


def test_control_groups_of_both_versions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "31 23 0:28 / /c rw - tmpfs tmpfs rw\n32 31 0:29 / /c/memory rw - cgroup cgroup rw,memory\n"
        "35 31 0:32 / /c/cpuset rw - cgroup cgroup rw,cpuset\n"
        "40 31 0:37 / /c/systemd rw - cgroup cgroup rw,name=systemd\n"
        "41 31 0:38 / /c/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (tmp_path / "mountinfo").write_text(table)
    monkeypatch.setattr(cgroups, "MOUNTS", tmp_path / "mountinfo")
    found = cgroups.hierarchies()
    assert found == {
        "memory": Path("/c/memory"),
        "name=systemd": Path("/c/systemd"),
        "": Path("/c/unified"),
    }


def test_the_last_lab_restores_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, labs = tmp_path / "limit", tmp_path / "labs"
    limit.write_text("128\n")
    monkeypatch.setattr(watches, "LIMIT", limit)
    (labs / "a").mkdir(parents=True)
    watches.allow(labs)
    (labs / "b").mkdir()
    watches.allow(labs)
    assert int(limit.read_text()) == watches.ENOUGH
    (labs / "a").rmdir()
    watches.restore(labs)
    assert int(limit.read_text()) == watches.ENOUGH  # b is still up
    (labs / "b").rmdir()
    watches.restore(labs)
    assert limit.read_text() == "128\n"
    assert list(labs.iterdir()) == []


def test_a_user_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NeedsRoot) as refusal:
        host.require_root("the lab", "lab.up --vms 3")
    assert refusal.value.hint == "sudo -E .venv/bin/fab lab.up --vms 3"
    monkeypatch.setattr(host, "SEARCH_PATH", "/nonexistent")
    with pytest.raises(MissingTool, match="systemd-nspawn, debootstrap") as missing:
        host.require_tools()
    assert "apt-get install" in missing.value.hint
    assert "systemd-container" in missing.value.hint
