"""Faults in the lab have the right effect, survive restarts, and are healed without a trace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from ops.cluster.inventory import REPOSITORY
from tests.lab.sandbox import LabSandbox

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_a_partition_outlives_a_power_failure_and_a_lost_journal(healed: LabSandbox) -> None:
    lab = healed
    lab.json("fault.partition", "--vms", "3")
    assert lab.reaches("vm1", "vm2")
    assert not lab.reaches("vm1", "vm3")
    assert not lab.reaches("vm3", "vm2")
    lab.ssh("vm3", "echo kept > note; sync")
    lab.json("fault.crash", "--vm", "3")
    assert [fault["kind"] for fault in lab.json("fault.list")["faults"]] == ["partition", "crash"]
    assert lab.json("lab.status")["vms"][2]["state"] == "down"
    twice = lab.fab("fault.crash", "--vm", "3")
    assert (twice.status, "NOT_RUNNING" in twice.err) == (3, True), twice
    lab.json("fault.start", "--vm", "3")
    assert lab.ssh("vm3", "cat note").out == "kept\n"
    assert not lab.reaches("vm3", "vm1")
    # vm3 itself drops packets again, not only the others.
    assert "-s" in lab.ssh("vm3", "sudo iptables -S RAINSTORM-F-f1-IN").out
    (lab.lab.folder / "faults.json").unlink()
    healed_vms = lab.json("fault.heal")["healed"]
    assert sorted(healed_vms) == ["vm1", "vm2", "vm3"]
    assert lab.reaches("vm3", "vm1")
    assert "RAINSTORM" not in lab.ssh("vm3", "sudo iptables-save").out


def test_packets_are_lost_and_late(healed: LabSandbox) -> None:
    lab = healed
    lab.json("fault.delay", "--ms", "40", "--vm", "1")
    lab.json("fault.loss", "--percent", "50", "--vm", "2")
    slow = lab.ssh("vm3", "ping -q -c 3 -i 0.1 -W 1 vm1").out
    found = re.search(r"= ([\d.]+)/", slow)
    assert found is not None, slow
    assert float(found[1]) >= 40
    lossy = re.search(r"([\d.]+)% packet loss", lab.ssh("vm3", "ping -q -c 200 -i 0.005 -W 1 vm2").out)
    assert lossy is not None
    # There and back each lose half: a quarter returns; 6 standard deviations around it.
    assert 56 <= float(lossy[1]) <= 94
    assert lab.ssh("vm1", "systemctl is-active 'fault-of-rainstorm-*'").out.strip() == "active"
    assert lab.fab("fault.heal").status == 0
    assert lab.ssh("vm1", "systemctl list-units --plain --no-legend 'fault-of-*'").out == ""
    assert lab.reaches("vm3", "vm2")


def test_a_node_is_deaf_in_one_direction(healed: LabSandbox) -> None:
    lab = healed
    lab.json("fault.one-way", "--vm", "2", "--direction", "in")
    counters = (
        "sudo iptables -nvx -L RAINSTORM-F-f{}-IN | awk '$3 == \"DROP\" {{ n += $1 }} END {{ print n }}'"
    )
    number = lab.json("fault.list")["faults"][0]["id"][1:]
    assert not lab.reaches("vm2", "vm1")
    # Its own packets went out and were answered; the answers were lost here.
    assert int(lab.ssh("vm2", counters.format(number)).out) >= 3


def test_a_full_disk_and_a_narrow_link(healed: LabSandbox) -> None:
    lab = healed
    lab.json("fault.disk-full", "--vm", "1")
    lab.json("fault.bandwidth", "--mbit", "10", "--vm", "1")
    write = "sudo dd if=/dev/zero of=/var/lib/rainstorm/x bs=4k count=1 conv=fsync"
    full = lab.ssh("vm1", write)
    assert "No space left on device" in full.err
    assert "tbf 4a11:" in lab.ssh("vm1", "sudo tc qdisc show dev host0").out
    assert lab.fab("fault.heal").status == 0
    assert lab.ssh("vm1", write).status == 0
    assert lab.ssh("vm1", "sudo rm /var/lib/rainstorm/x; sudo tc qdisc show dev host0").out.startswith(
        "qdisc noqueue"
    )


def test_a_paused_vm_is_silent_until_it_is_resumed(healed: LabSandbox) -> None:
    lab = healed
    lab.json("fault.pause", "--vm", "2")
    assert lab.json("lab.status")["vms"][1]["state"] == "paused"
    # The kernel answers pings for it; its processes answer nothing.
    knock = "timeout 1 bash -c 'read -r line < /dev/tcp/vm2/22'"
    assert lab.ssh("vm1", knock).status != 0
    refused = lab.fab("fault.loss", "--vm", "2")
    assert "vm2 is paused" in refused.err
    lab.json("fault.resume", "--vm", "2")
    assert lab.ssh("vm1", knock).status == 0


def test_any_inventory_takes_faults_over_ssh(healed: LabSandbox, tmp_path: Path) -> None:
    lab, cluster = healed, f"{healed.lab.name}-ssh"
    content = yaml.safe_load(lab.lab.inventory_path.read_text())
    variables = content["all"]["vars"]
    del variables["rainstorm_lab"]
    variables["rainstorm_cluster"] = cluster
    (tmp_path / "inventory").write_text(yaml.safe_dump(content))
    there = ("--inventory", str(tmp_path / "inventory"))
    unit, units = "rainstorm-membership.service", "/etc/systemd/system"
    service = "[Service]\\nExecStart=/bin/sleep 1000\\nRestart=always\\n"
    lab.ssh("vm1", f"printf '{service}' | sudo tee {units}/{unit}")
    lab.ssh("vm1", f"printf '[Unit]\\nWants={unit}\\n' | sudo tee {units}/rainstorm.target")
    lab.ssh("vm1", "sudo systemctl daemon-reload; sudo systemctl start rainstorm.target")
    try:
        lab.json("fault.partition", "--vms", "3", *there)
        assert not lab.reaches("vm1", "vm3")
        lab.json("fault.crash", "--vm", "1", *there)
        assert lab.ssh("vm1", f"systemctl is-active {unit}").out != "active\n"
        assert [fault["kind"] for fault in lab.json("fault.list", *there)["faults"]] == ["partition", "crash"]
        refused = lab.fab("fault.clock", "--vm", "1", *there)
        assert "it is a container" in refused.err
        none = lab.fab("fault.crash", "--vm", "2", *there)
        assert "no service of RainStorm is installed" in none.err
        assert "services: started" in lab.json("fault.heal", *there)["healed"]["vm1"]
        assert lab.ssh("vm1", f"systemctl is-active {unit}").out == "active\n"
        assert lab.reaches("vm1", "vm3")
        assert lab.json("fault.list", *there)["faults"] == []
    finally:
        lab.ssh("vm1", f"sudo systemctl stop {unit}; sudo rm {units}/{unit} {units}/rainstorm.target")
        shutil.rmtree(REPOSITORY / ".rainstorm" / cluster, ignore_errors=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fault.clock", "--vm", "1"], "UNSUPPORTED"),
        (["fault.partition", "--vms", "1,2,3"], "at least one node on the other side"),
        (["fault.partition", "--vms", "9"], "has no node '9'"),
        (["fault.loss", "--percent", "101"], "out of range"),
        (["fault.one-way", "--vm", "1", "--direction", "up"], "in or out"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    lab: LabSandbox, arguments: list[str], says: str
) -> None:
    refused = lab.fab(*arguments)
    assert refused.status != 0
    assert says in refused.err
    assert lab.json("fault.list")["faults"] == []
