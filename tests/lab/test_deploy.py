"""A cluster on real VMs from bare to bare: deploy, deploy again, change, break, roll back, collect, reset."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.deployment import Deployment
from tests.lab.sandbox import LabSandbox
from tests.support import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

VMS = ("vm1", "vm2", "vm3")
AGENTS = ("membership", "hydfs", "rainstorm", "logs")
# The watchdog waits 20 s; then systemd ends the process and restarts it.
WATCHDOG_S = 60.0


@pytest.fixture(scope="module")
def deployment(lab: LabSandbox) -> Iterator[Deployment]:
    """The cluster, deployed on bare VMs."""
    found = Deployment(lab)
    dry = found.done("deploy.yml", "--check")
    assert min(dry.values()) > 0, "a dry run on bare VMs tells what it would change"
    assert found.lab.ssh("vm1", "test -e /opt/rainstorm || test -e /etc/rainstorm").status != 0
    found.done("deploy.yml")
    yield found
    found.done("playbooks/reset.yml", "-e", f"confirm={lab.lab.name}")
    left = "ls -d /opt/rainstorm /etc/rainstorm /run/rainstorm /var/log/rainstorm /etc/systemd/system/rain*"
    assert lab.ssh("vm2", f"{left} 2>/dev/null; getent passwd rainstorm rainstorm-task").out == ""


def test_all_agents_run_as_they_should(deployment: Deployment) -> None:
    assert deployment.fab("verify", "--wait", "60").status == 0
    for agent in AGENTS:
        assert deployment.property("vm2", agent, "ActiveState") == "active"
        assert deployment.property("vm2", agent, "User") == "rainstorm"
        assert deployment.property("vm2", agent, "StatusText")
    modes = deployment.root("vm2", "stat -c '%a %U %n' /etc/rainstorm/gossip.key /etc/rainstorm/tls/vm2.key")
    assert modes.splitlines() == [
        "600 rainstorm /etc/rainstorm/gossip.key",
        "600 rainstorm /etc/rainstorm/tls/vm2.key",
    ]


def test_a_second_run_changes_nothing_also_a_dry_one(deployment: Deployment) -> None:
    assert deployment.done("deploy.yml") == dict.fromkeys(VMS, 0)
    assert deployment.done("deploy.yml", "--check") == dict.fromkeys(VMS, 0)
    assert deployment.done("playbooks/verify.yml") == dict.fromkeys(VMS, 0)


def test_tasks_see_no_keys_and_say_nothing_to_systemd(deployment: Deployment) -> None:
    pids = deployment.root("vm1", "pgrep -u rainstorm-task -f rainstorm[.]task").split()
    assert pids
    assert deployment.root("vm1", f"ps -o user= -p {pids[0]}") == "rainstorm-task"
    keys = f"nsenter -t {pids[0]} -m setpriv --reuid rainstorm-task --regid rainstorm-task --clear-groups ls"
    for path in ("/etc/rainstorm", "/var/lib/rainstorm", "/var/log/rainstorm"):
        assert deployment.lab.ssh("vm1", f"sudo {keys} {path}").status != 0
    for process in pids:
        assert "NOTIFY_SOCKET" not in deployment.root("vm1", f"tr '\\0' ' ' < /proc/{process}/environ")


def test_a_hung_agent_is_restarted(deployment: Deployment) -> None:
    """Its process is alive and its ports are open: only the missing keep-alive message shows the stall."""
    before = deployment.property("vm3", "hydfs", "MainPID")
    deployment.root("vm3", f"kill -STOP {before}")
    gone = (before, "0")
    wait_until(
        lambda: deployment.property("vm3", "hydfs", "MainPID") not in gone, WATCHDOG_S, "a new process"
    )
    deployment.root("vm3", "journalctl --no-pager -u rainstorm-hydfs | grep -i 'watchdog timeout'")
    assert deployment.fab("verify", "--wait", "60").status == 0


def test_sigkill_of_every_store_loses_nothing(deployment: Deployment, tmp_path: Path) -> None:
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(os.urandom(3_000_000))
    put = deployment.fab("put", str(sent), "kept/data")
    assert put.status == 0, put.err
    for vm in VMS:
        deployment.root(vm, "systemctl kill --signal=KILL rainstorm-hydfs")
    assert deployment.fab("verify", "--wait", "60").status == 0
    assert deployment.fab("get", "kept/data", str(back)).status == 0
    assert back.read_bytes() == sent.read_bytes()


def test_a_changed_setting_restarts_one_vm_at_a_time(deployment: Deployment) -> None:
    """The agent's own check refuses a wrong setting before anything is changed."""
    wrong = deployment.play("deploy.yml", "-e", '{"hydfs_settings": {"ack_timeout": 2.0}}')
    assert wrong.status != 0
    assert "did you mean" in wrong.out
    setting = ("-e", '{"hydfs_settings": {"ack_timeout_s": 2.0}}')
    changed = deployment.done("deploy.yml", *setting)
    assert min(changed.values()) > 0
    spans = []
    for vm in VMS:
        # From the moment the first agent stopped to the one at which the last one was ready.
        stopped = deployment.property(vm, "hydfs", "InactiveEnterTimestampMonotonic")
        ready = deployment.property(vm, "logs", "ActiveEnterTimestampMonotonic")
        spans.append((int(stopped), int(ready)))
    spans.sort()
    assert all(first[1] < second[0] for first, second in itertools.pairwise(spans)), spans
    assert deployment.done("deploy.yml", *setting) == dict.fromkeys(VMS, 0)


def test_a_restart_leaves_no_process_as_it_was(deployment: Deployment) -> None:
    def pids() -> dict[tuple[str, str], str]:
        return {(vm, agent): deployment.property(vm, agent, "MainPID") for vm in VMS for agent in AGENTS}

    before = pids()
    deployment.done("playbooks/restart.yml")
    after = pids()
    assert [agent for agent in before if before[agent] == after[agent]] == []
    assert deployment.fab("verify").status == 0


def test_a_half_finished_run_is_finished_by_the_next(deployment: Deployment) -> None:
    """vm2 was cut off while its release was installed, vm3 after its configuration was written."""
    torn = "rm /opt/rainstorm/current/.complete /etc/rainstorm/tls/vm2.key"
    deployment.root("vm2", f"systemctl stop rainstorm.target rainstorm.slice; {torn}")
    deployment.root("vm3", "echo '# other' >> /etc/rainstorm/node.yml")
    again = deployment.done("deploy.yml")
    assert again["vm2"] > 0
    assert again["vm3"] > 0
    assert deployment.done("deploy.yml") == dict.fromkeys(VMS, 0)
    assert deployment.done("playbooks/verify.yml") == dict.fromkeys(VMS, 0)


def test_the_way_back_to_the_release_before(deployment: Deployment) -> None:
    current = deployment.root("vm1", "basename $(readlink /opt/rainstorm/current)")
    for vm in VMS:
        copy = f"cp -a {current} 0.0.1-before && echo 0.0.1-before > 0.0.1-before/.complete"
        deployment.root(vm, f"cd /opt/rainstorm/releases && {copy}")
    deployment.done("playbooks/rollback.yml")
    for vm in VMS:
        assert deployment.root(vm, "readlink /opt/rainstorm/current") == "releases/0.0.1-before"
        pid = deployment.property(vm, "membership", "MainPID")
        assert "/releases/0.0.1-before/" in deployment.root(vm, f"cat /proc/{pid}/maps")
    deployment.done("playbooks/upgrade.yml", "-e", f"rainstorm_release={current}")
    assert deployment.root("vm1", "readlink /opt/rainstorm/current") == f"releases/{current}"
    missing = deployment.play("playbooks/upgrade.yml", "-e", "rainstorm_release=9.9.9-none")
    assert missing.status != 0
    assert "does not have the release 9.9.9-none" in missing.out


def test_new_keys_everywhere_and_the_cluster_stays_up(deployment: Deployment) -> None:
    before = (deployment.secrets / "gossip.key").read_text()
    certificate = "sha256sum /etc/rainstorm/tls/vm1.pem"
    old = deployment.root("vm1", certificate)
    deployment.done("playbooks/rotate-keys.yml")
    after = (deployment.secrets / "gossip.key").read_text()
    assert after != before
    assert deployment.root("vm1", "cat /etc/rainstorm/gossip.key") == after.strip()
    assert deployment.root("vm1", certificate) != old
    assert deployment.fab("verify").status == 0


def test_a_bundle_of_each_vm_without_a_key_in_it(deployment: Deployment, tmp_path: Path) -> None:
    deployment.done("playbooks/collect.yml")
    (folder,) = (deployment.secrets / "bundles").iterdir()
    secret = (deployment.secrets / "gossip.key").read_bytes().strip()
    for vm in VMS:
        with tarfile.open(folder / f"{vm}.tar.gz") as tar:
            tar.extractall(tmp_path, filter="data")
        files = [path for path in (tmp_path / vm).rglob("*") if path.is_file()]
        assert {"journal.log", "units.txt", "node.yml"} <= {path.name for path in files}
        for path in files:
            content = path.read_bytes()
            assert secret not in content
            assert b"PRIVATE KEY" not in content
        assert b"ready service=membership" in (tmp_path / vm / "journal.log").read_bytes()


def test_what_is_wrong_with_a_vm_is_named_before_anything_is_changed(
    deployment: Deployment, tmp_path: Path
) -> None:
    other = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True, timeout=30)
    # A connection that is still open would be used again, whatever the key.
    keyed = ("-e", f"ansible_ssh_private_key_file={other}", "-e", "ansible_control_path=none")
    wrong = deployment.play("deploy.yml", *keyed)
    assert wrong.status != 0
    for vm in VMS:
        assert re.search(rf"{vm} \(10[\d.]+\): it cannot be reached: \S+: Permission denied", wrong.out)
    refused = deployment.play("playbooks/reset.yml")
    assert refused.status != 0
    assert f"-e confirm={deployment.lab.lab.name}" in " ".join(refused.out.split())
    deployment.root("vm2", "systemctl stop rainstorm.target rainstorm.slice")
    deployment.root("vm2", "systemd-run --unit=squatter python3 -m http.server 7101 --bind 0.0.0.0")
    try:
        taken = deployment.play("deploy.yml")
        assert taken.status != 0
        assert re.search(r"port 7101 of hydfs is taken by python3", " ".join(taken.out.split()))
    finally:
        deployment.root("vm2", "systemctl stop squatter")
    deployment.done("playbooks/stop.yml")
    for vm in VMS:
        assert deployment.root(vm, "pgrep -u rainstorm,rainstorm-task || true") == "", "all have stopped"
    deployment.done("deploy.yml")
    assert deployment.fab("verify", "--wait", "60").status == 0
