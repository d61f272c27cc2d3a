"""The lab's VMs are machines: an operator logs in, units are limited, and a lab leaves nothing behind."""

from __future__ import annotations

import os

import pytest

from ops.machine.cgroups import SHARES, hierarchies
from tests.lab.sandbox import LabSandbox, network_traces, why_not
from tests.support import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# The systemd options of the agents' units; the programs that run under them try to exceed the limits.
HARDENED = """sudo systemd-run --wait --pipe --quiet -p MemoryMax=64M -p TasksMax=20 -p DynamicUser=yes
-p PrivateDevices=yes -p PrivateTmp=yes -p ProtectSystem=strict -p ProtectKernelModules=yes
-p ProtectControlGroups=yes -p ProtectProc=invisible -p RestrictNamespaces=yes -p CapabilityBoundingSet=
-p SystemCallFilter=@system-service -p RestrictAddressFamilies=AF_UNIX""".replace("\n", " ")


def test_an_operator_logs_in_to_every_vm(lab: LabSandbox) -> None:
    for vm in ("vm1", "vm2", "vm3"):
        ended = lab.ssh(
            vm, "hostname; sudo -n id -u; systemctl is-system-running --wait; ip route show default"
        )
        assert ended.out.split() == [vm, "0", "running"], ended
    ids = {lab.ssh(vm, "cat /etc/machine-id").out for vm in ("vm1", "vm2", "vm3")}
    assert len(ids) == 3


def test_the_vms_of_a_lab_do_not_share_what_one_process_gets(lab: LabSandbox) -> None:
    weights = [
        int(path.read_text()) / one
        for root in hierarchies().values()
        for name, (one, _) in SHARES.items()
        if (path := root / f"rainstorm-lab-{lab.lab.name}" / name).exists()
    ]
    assert weights == [12] * len(weights)  # three VMs, four agents each


def test_units_are_hardened_and_limited(lab: LabSandbox) -> None:
    modest = lab.ssh("vm1", f"{HARDENED} python3 -c 'print(len(bytearray(16 << 20)))'")
    assert modest.out.strip() == str(16 << 20), modest
    assert lab.ssh("vm1", f"{HARDENED} python3 -c 'bytearray(200 << 20)'").status != 0
    assert lab.ssh("vm1", f"{HARDENED} python3 -c 'import socket; socket.socket()'").status != 0
    devices = lab.ssh("vm1", f"{HARDENED} ls /dev").out.split()
    assert "null" in devices
    assert "console" not in devices


def test_ansible_and_fab_read_the_inventory(lab: LabSandbox) -> None:
    found = lab.json("lab.status")
    assert [(vm["name"], vm["state"]) for vm in found["vms"]] == [(f"vm{n}", "up") for n in (1, 2, 3)]
    assert lab.fab("fault.list").err.strip() == "no fault is in force"  # without --inventory: the lab is up
    refused = lab.fab("lab.up", "--vms", "3")
    assert refused.status == 1
    assert "is already up with 3 VMs" in refused.err
    assert "fab lab.down" in refused.err


@pytest.mark.parametrize("moment", ["network", "boot"])
def test_a_killed_up_leaves_nothing_that_down_does_not_remove(moment: str) -> None:
    if reason := why_not():
        pytest.skip(reason)
    sandbox = LabSandbox(f"test-killed-{os.getpid()}")
    process = sandbox.start_fab("lab.up", "--vms", "2")
    try:
        sign = sandbox.lab.folder / ("vm1/root/etc" if moment == "network" else "vm2/console.log")
        wait_until(sign.exists, 600, f"{sign} is there")
        subnet = sandbox.lab.subnet()
    finally:
        process.kill()
        process.wait()
        ended = sandbox.fab("lab.down")
    assert ended.status == 0, ended.err
    assert sandbox.traces() + network_traces(subnet) == []
    assert "nothing to remove" in sandbox.fab("lab.down").out
    assert sandbox.traces() == []
