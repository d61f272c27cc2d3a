"""Faults as iptables rules: which node affects which packets, how they are healed, and their records."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.common.errors import AlreadyRunning, RainStormError, UsageError
from ops.cluster import inventory
from ops.faults import delay, plan
from ops.faults.injector import Injector
from ops.faults.loopback import LocalMachines
from ops.faults.plan import Fault, Placement
from ops.faults.records import Journal
from ops.local.layout import Layout

NAMES = ["vm1", "vm2", "vm3"]
ADDRESSES = {"vm1": "10.0.0.1", "vm2": "10.0.0.2", "vm3": "10.0.0.3"}


def _rules(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("-A")]


def test_a_partition_is_enforced_at_both_ends_of_every_path_across_and_nowhere_else() -> None:
    found = set(plan.placements(Fault(1, "partition", ("vm3",)), NAMES))
    across = [("vm3", "vm1"), ("vm3", "vm2"), ("vm1", "vm3"), ("vm2", "vm3")]
    assert found == {Placement(node, side, peer) for node, peer in across for side in ("IN", "OUT")}


@pytest.mark.parametrize(
    ("direction", "rule"), [("in", "-A {}-IN -s 10.0.0.1 -j DROP"), ("out", "-A {}-OUT -d 10.0.0.1 -j DROP")]
)
def test_one_way_touches_only_the_node_and_one_direction(direction: str, rule: str) -> None:
    scripts = plan.vm_scripts(Fault(7, "one-way", ("vm2",), {"direction": direction}), ADDRESSES)
    assert list(scripts) == ["vm2"]
    rules = _rules(scripts["vm2"])
    assert rules[0] == rule.format("RAINSTORM-F-f7")
    assert len(rules) == 2


@pytest.mark.parametrize("kind", ["loss", "delay"])
@pytest.mark.parametrize("chosen", [("vm1",), ("vm1", "vm2"), ("vm1", "vm2", "vm3")])
def test_no_packet_meets_a_loss_or_delay_twice(kind: str, chosen: tuple[str, ...]) -> None:
    met = []
    for each in plan.placements(Fault(1, kind, chosen, {"percent": 5, "ms": 5}), NAMES):
        met.append((each.peer, each.node) if each.side == "IN" else (each.node, each.peer))
    wanted = [(a, b) for a in NAMES for b in NAMES if a != b and {a, b} & set(chosen)]
    assert sorted(met) == sorted(wanted)


def test_packets_are_delayed_where_they_arrive() -> None:
    sides = {each.side for each in plan.placements(Fault(1, "delay", ("vm1",), {"ms": 5}), NAMES)}
    assert sides == {"IN"}
    script = plan.vm_scripts(Fault(3, "delay", ("vm1",), {"ms": 12.5}), ADDRESSES)["vm2"]
    assert _rules(script) == ["-A RAINSTORM-F-f3-IN -s 10.0.0.1 -j NFQUEUE --queue-num 42003 --queue-bypass"]
    assert "delay.py 42003 12.5" in script
    assert "*mangle" in script


def test_loopback_rules_name_both_ends() -> None:
    script = plan.loopback_script(Fault(2, "partition", ("vm1",)), ADDRESSES, "RAINSTORM-Labcdef")
    assert _rules(script) == [
        f"-A RAINSTORM-Labcdef-f2-IN -i lo -s 10.0.0.{a} -d 10.0.0.{b} -j DROP"
        for a, b in [(1, 2), (1, 3), (2, 1), (3, 1)]
    ]
    assert len("RAINSTORM-Labcdef-f9999-OUT") <= 28


@pytest.mark.parametrize("percent", [0.01, 5.0, 100.0])
def test_a_share_becomes_a_probability(percent: float) -> None:
    words = plan.target(Fault(1, "loss", ("vm1",), {"percent": percent})).split()
    assert float(words[words.index("--probability") + 1]) == pytest.approx(percent / 100)


EVERY_KIND = [
    Fault(1, "partition", ("vm1",)),
    Fault(2, "one-way", ("vm1",), {"direction": "in"}),
    Fault(3, "loss", ("vm1",), {"percent": 5.0}),
    Fault(4, "delay", ("vm1",), {"ms": 5.0}),
    Fault(5, "bandwidth", ("vm1",), {"mbit": 10.0}),
    Fault(6, "disk-full", ("vm1",)),
    Fault(7, "clock", ("vm1",), {"seconds": -3.0}),
]


@pytest.mark.parametrize("fault", EVERY_KIND, ids=lambda fault: fault.kind)
def test_every_script_is_a_shell_script(fault: Fault) -> None:
    scripts = [*plan.vm_scripts(fault, ADDRESSES).values(), plan.heal_script(), plan.crash_script()]
    for script in [*scripts, plan.start_script(), plan.pause_script(), plan.resume_script()]:
        done = subprocess.run(["/bin/sh", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert "vm1" in fault.words()


def test_healing_removes_its_own_chains_and_no_others(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    saved = """-P INPUT ACCEPT
-N RAINSTORM-F-f1-IN
-N RAINSTORM-LAB-7
-N MINE
-A INPUT -j RAINSTORM-F-f1-IN
-A INPUT -s 192.0.2.1/32 -j MINE
-A FORWARD -j RAINSTORM-LAB-7
-A RAINSTORM-F-f1-IN -s 10.0.0.1/32 -j DROP"""
    (tools / "iptables").write_text(f"#!/bin/sh\ncase $* in *mangle*) exit 0;; esac\ncat <<'E'\n{saved}\nE\n")
    (tools / "iptables-restore").write_text(f"#!/bin/sh\ncat > {tmp_path}/restored\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", plan.heal_rules_script(plan.VM_PREFIX)],
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "rules: RAINSTORM-F-f1-IN\n"
    assert (tmp_path / "restored").read_text().splitlines() == [
        "*filter",
        "-D INPUT -j RAINSTORM-F-f1-IN",
        "-F RAINSTORM-F-f1-IN",
        "-X RAINSTORM-F-f1-IN",
        "COMMIT",
    ]


def test_the_records_survive_their_writer_and_damage(tmp_path: Path) -> None:
    first = Journal(tmp_path).add("loss", ["vm1"], {"percent": 5.0})
    second = Journal(tmp_path).add("crash", ["vm2"], {})
    again = Journal(tmp_path)
    assert again.read() == [first, second]
    again.replace([second])
    assert Journal(tmp_path).read() == [second]
    assert again.add("pause", ["vm1"], {}).number == 3  # the number of a fault is never reused
    (tmp_path / "faults.json").write_text('{"next": 4, "faul')
    assert Journal(tmp_path).read() == []
    with again.locked(), pytest.raises(AlreadyRunning), Journal(tmp_path).locked():
        pass


def test_a_fault_is_recorded_before_it_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Fault] = []

    class Here(LocalMachines):
        """Nodes on this machine; applying a fault to them is interrupted."""

        def check(self, kind: str, nodes: Sequence[str]) -> None:
            """Supports every fault."""

        def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
            """Reads the records and is killed."""
            seen.extend(Journal(self.folder).read())
            raise KeyboardInterrupt

    layout = Layout(tmp_path / "c", tmp_path / "inventory")
    layout.prepare(3)
    monkeypatch.setattr("ops.faults.injector.machines_of", Here)
    injector = Injector(inventory.load(tmp_path / "inventory"))
    with pytest.raises(KeyboardInterrupt):
        injector.inject("partition", ["vm3"], {})
    assert [(fault.kind, fault.nodes) for fault in seen] == [("partition", ("vm3",))]
    assert injector.in_force() == seen
    with pytest.raises(UsageError, match="at least one node on the other side"):
        injector.inject("partition", ["vm1", "vm2", "vm3"], {})


def test_the_delay_program_reads_what_the_kernel_writes() -> None:
    def packet(number: int) -> bytes:
        attributes = delay.attribute(9, b"\0\0\0\1") + delay.attribute(
            1, struct.pack("!IHB", number, 0x800, 1)
        )
        return delay.message(delay.PACKET, 42, attributes)

    assert delay.packet_numbers(packet(7) + packet(8)) == [7, 8]
    assert delay.packet_numbers(packet(7)[:-9]) == []
    refusal = struct.pack("=IHHIIi", 36, delay.NETLINK_ERROR, 0, 0, 0, -1) + bytes(16)
    with pytest.raises(PermissionError):
        delay.packet_numbers(refusal)
    assert delay.verdict(42, 8)[20:] == struct.pack("=HH", 12, 2) + struct.pack("!II", 1, 8)
