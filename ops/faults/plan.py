"""Translates a fault into shell scripts for each machine, which depend on the fault alone.

Network faults are iptables rules in separate chains, named RAINSTORM-..., which one ``iptables-restore`` adds
all at once. Only packets between the cluster's nodes match, so the operator can still connect. Everything
that a script changes carries a mark by which ``heal_script`` finds it again, whichever command made it and
whether or not that command completed: the names of chains and units, the handle of the queueing discipline,
and files in MARKS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DATA_FOLDER = "/var/lib/rainstorm"
FILL = f"{DATA_FOLDER}/.rainstorm-fault-fill"
MARKS = "/run/rainstorm-fault"
DELAY_PROGRAM = f"{MARKS}/delay.py"
# Not rainstorm-..., because faults of the services must not affect it.
DELAY_UNIT = "fault-of-rainstorm-delay"
# Above the numbers that anything else on a machine uses; the number of the fault is added.
QUEUE_FIRST = 42_000
QDISC_HANDLE = "4a11:"
VM_PREFIX = "RAINSTORM-F"
UNSUPPORTED_STATUS = 77
NETWORK_KINDS = ("partition", "one-way", "loss", "delay", "bandwidth")
# A token bucket must hold what passes between two kernel timer ticks (at least 100 per second).
TICKS_PER_S = 100
BURST_BYTES_MIN = 32 * 1024
UNITS = "'rainstorm-*.service'"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in force."""

    number: int
    kind: str
    nodes: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0

    @property
    def id(self) -> str:
        """Returns the short name of the fault."""
        return f"f{self.number}"

    def words(self) -> str:
        """Returns the fault in words."""
        nodes = ", ".join(self.nodes)
        value = {name: f"{each:g}" for name, each in self.parameters.items() if isinstance(each, int | float)}
        match self.kind:
            case "partition":
                return f"{nodes} cut off from the others"
            case "one-way":
                lost = "hears nothing from" if self.parameters["direction"] == "in" else "cannot reach"
                return f"{nodes} {lost} the others"
            case "loss":
                return f"{value['percent']} % of the packets of {nodes} are lost"
            case "delay":
                return f"the packets of {nodes} take {value['ms']} ms longer"
            case "bandwidth":
                return f"{nodes} can send {value['mbit']} Mbit/s"
            case "disk-full":
                return f"the data disk of {nodes} is full"
            case "clock":
                return f"the clock of {nodes} is {value['seconds']} s off"
            case "crash":
                return f"{nodes} crashed"
            case "pause":
                return f"{nodes} paused"
        raise AssertionError(self.kind)


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """Packets between ``node`` and ``peer`` to which ``node`` applies the fault; ``side`` is IN or OUT."""

    node: str
    side: str
    peer: str


def placements(fault: Fault, names: Sequence[str]) -> list[Placement]:
    """Returns where a network fault is applied to packets.

    A partition is enforced at both ends, so that it survives the restart of a machine. Loss and delay are
    applied at one end of each path, so that they do not affect a packet twice.
    """
    chosen = [name for name in names if name in fault.nodes]
    others = [name for name in names if name not in fault.nodes]
    if fault.kind == "partition":
        ends = [(a, b) for a in chosen for b in others] + [(b, a) for a in chosen for b in others]
        return [Placement(node, side, peer) for node, peer in ends for side in ("IN", "OUT")]
    if fault.kind == "one-way":
        side = str(fault.parameters["direction"]).upper()
        return [Placement(node, side, peer) for node in chosen for peer in names if peer != node]
    if fault.kind == "delay":
        # Always where packets arrive: if they were held where they leave, they would count as unsent, and TCP
        # would stop sending after a few of them (its "small queues").
        sent = [Placement(peer, "IN", node) for node in chosen for peer in names if peer != node]
        return sent + [Placement(node, "IN", peer) for node in chosen for peer in others]
    sent = [Placement(node, "OUT", peer) for node in chosen for peer in names if peer != node]
    return sent + [Placement(node, "IN", peer) for node in chosen for peer in others]


def target(fault: Fault) -> str:
    """Returns the iptables target for a packet."""
    if fault.kind == "loss":
        return (
            f"-m statistic --mode random --probability {float(fault.parameters['percent']) / 100:.6f} -j DROP"
        )
    if fault.kind == "delay":
        # Without a program that reads the queue, packets pass as usual.
        return f"-j NFQUEUE --queue-num {QUEUE_FIRST + fault.number} --queue-bypass"
    return "-j DROP"


def table(fault: Fault) -> str:
    """Returns the table of a fault's rules.

    A packet that returns from a queue skips the rest of its table; in a separate table there is nothing to
    skip.
    """
    return "mangle" if fault.kind == "delay" else "filter"


def restore(fault: Fault, prefix: str, rules: Mapping[str, Iterable[str]]) -> str:
    """Returns the script that adds ``rules`` (by side, IN or OUT)."""
    chains = {side: f"{prefix}-{fault.id}-{side}" for side in rules}
    lines = [f"*{table(fault)}", *(f":{chain} - [0:0]" for chain in chains.values())]
    for side, matches in rules.items():
        lines += [f"-A {chains[side]} {match} {target(fault)}" for match in matches]
    lines += [f"-I {side}PUT -j {chain}" for side, chain in chains.items()]
    text = "\n".join([*lines, "COMMIT"])
    # Add the rules only once, even if the script runs again.
    first = next(iter(rules))
    return (
        "command -v iptables >/dev/null || { echo 'iptables is not installed' >&2; exit 69; }\n"
        f"iptables -w 10 -t {table(fault)} -n -L {prefix}-{fault.id}-{first} >/dev/null 2>&1 && exit 0\n"
        f"iptables-restore --noflush --wait 10 <<'END'\n{text}\nEND\n"
    )


def vm_scripts(fault: Fault, addresses: Mapping[str, str]) -> dict[str, str]:
    """Returns the script for each machine that applies a fault there, to be run as root."""
    names = list(addresses)
    if fault.kind == "bandwidth":
        return {node: _bandwidth(fault, node, addresses) for node in fault.nodes}
    if fault.kind == "disk-full":
        return dict.fromkeys(fault.nodes, _DISK_FULL)
    if fault.kind == "clock":
        return dict.fromkeys(fault.nodes, _clock(float(fault.parameters["seconds"])))
    rules: dict[str, dict[str, list[str]]] = {}
    for each in placements(fault, names):
        match = f"-s {addresses[each.peer]}" if each.side == "IN" else f"-d {addresses[each.peer]}"
        rules.setdefault(each.node, {}).setdefault(each.side, []).append(match)
    scripts = {node: restore(fault, VM_PREFIX, sides) for node, sides in rules.items()}
    if fault.kind == "delay":
        start = _delay(fault)
        scripts = {node: f"{start}{script}" for node, script in scripts.items()}
    return scripts


def loopback_script(fault: Fault, addresses: Mapping[str, str], prefix: str) -> str:
    """Returns the script that applies a fault between nodes on one machine's loopback addresses."""
    paths = set()
    for each in placements(fault, list(addresses)):
        ends = (each.peer, each.node) if each.side == "IN" else (each.node, each.peer)
        paths.add(f"-i lo -s {addresses[ends[0]]} -d {addresses[ends[1]]}")
    return restore(fault, prefix, {"IN": sorted(paths)})


def heal_rules_script(prefix: str) -> str:
    """Returns the script that removes every rule and chain whose name begins with ``prefix``."""
    return f"""
for table in filter mangle; do
    rules=$(iptables -w 10 -t $table -S 2>/dev/null) || continue
    chains=$(printf '%s\\n' "$rules" | sed -n 's/^-N \\({prefix}-.*\\)$/\\1/p')
    [ -n "$chains" ] || continue
    {{
        echo "*$table"
        printf '%s\\n' "$rules" | sed -n 's/^-A \\(INPUT\\|OUTPUT\\) \\(.*-j {prefix}-.*\\)$/-D \\1 \\2/p'
        for chain in $chains; do echo "-F $chain"; done
        for chain in $chains; do echo "-X $chain"; done
        echo COMMIT
    }} | iptables-restore --noflush --wait 10 && echo "rules:" $chains || failed=1
done
"""


def heal_script() -> str:
    """Returns the script that undoes, on one machine, whatever the other scripts have done.

    It prints a line for each thing that it undid, and ends with status 1 if something could not be undone.
    """
    return f"""
failed=0
{heal_rules_script(VM_PREFIX)}
for unit in $(systemctl list-units --plain --no-legend '{DELAY_UNIT}-*' | cut -d' ' -f1); do
    systemctl stop "$unit" && echo "delay: $unit" || failed=1
done
for device in $(ls /sys/class/net); do
    tc qdisc show dev "$device" 2>/dev/null | grep -q 'qdisc tbf {QDISC_HANDLE}' || continue
    tc qdisc del dev "$device" root && echo "bandwidth: $device" || failed=1
done
if [ -e {FILL} ]; then rm -f {FILL} && echo "disk: {FILL}" || failed=1; fi
if [ -e {MARKS}/clock ]; then
    read -r seconds ntp <{MARKS}/clock
    date -s "$seconds seconds ago" >/dev/null && rm -f {MARKS}/clock && echo "clock: $seconds s" || failed=1
    [ "$ntp" != yes ] || timedatectl set-ntp true || failed=1
fi
if [ -e {MARKS}/paused ]; then {resume_script()} fi
if [ -e {MARKS}/crashed ]; then {start_script()} fi
rm -f {DELAY_PROGRAM}
[ ! -d {MARKS} ] || rmdir {MARKS} || failed=1
exit $failed
"""


def crash_script() -> str:
    """Returns the script that kills all services of RainStorm on a machine and keeps them down."""
    return f"""
units=$(systemctl list-units --plain --no-legend --all {UNITS} | cut -d' ' -f1)
[ -n "$units" ] || {{ echo 'no service of RainStorm is installed' >&2; exit 69; }}
mkdir -p {MARKS} && echo $units >{MARKS}/crashed
systemctl mask --runtime --quiet $units rainstorm.target
systemctl kill --kill-whom=all --signal=SIGKILL $units 2>/dev/null
systemctl stop $units
"""


def start_script() -> str:
    """Returns the script that starts the services that ``crash_script`` killed."""
    return f"""
systemctl unmask --runtime --quiet $(cat {MARKS}/crashed) rainstorm.target
rm -f {MARKS}/crashed
systemctl reset-failed {UNITS}
systemctl start rainstorm.target && echo 'services: started' || failed=1
"""


def pause_script() -> str:
    """Returns the script that pauses all services of RainStorm on a machine."""
    return f"""
mkdir -p {MARKS} && touch {MARKS}/paused
systemctl kill --kill-whom=all --signal=SIGSTOP {UNITS}
"""


def resume_script() -> str:
    """Returns the script that resumes the services that ``pause_script`` paused."""
    return f"""
systemctl kill --kill-whom=all --signal=SIGCONT {UNITS}
rm -f {MARKS}/paused && echo 'services: resumed' || failed=1
"""


def delay_install_script(program: str) -> str:
    """Returns the script that installs the delay program (its text in base64) on a machine."""
    return f"mkdir -p {MARKS} && printf %s {program} | base64 -d >{DELAY_PROGRAM}\n"


def _delay(fault: Fault) -> str:
    unit, queue = f"{DELAY_UNIT}-{fault.id}", QUEUE_FIRST + fault.number
    return (
        f"systemctl is-active --quiet {unit} || systemd-run --quiet --collect --unit={unit} "
        "--service-type=notify --property=NotifyAccess=main "
        f"python3 {DELAY_PROGRAM} {queue} {float(fault.parameters['ms']):g} || exit 1\n"
    )


def _bandwidth(fault: Fault, node: str, addresses: Mapping[str, str]) -> str:
    peer = next(address for name, address in addresses.items() if name != node)
    bytes_per_s = float(fault.parameters["mbit"]) * 1e6 / 8
    burst = max(BURST_BYTES_MIN, int(bytes_per_s / TICKS_PER_S))
    return (
        f"device=$(ip -4 -o route get {peer} | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')\n"
        '[ -n "$device" ] || { echo "no route to ' + peer + '" >&2; exit 1; }\n'
        f'tc qdisc replace dev "$device" root handle {QDISC_HANDLE} tbf '
        f"rate {float(fault.parameters['mbit']):g}mbit burst {burst} latency 50ms\n"
    )


# Writing fills what is left after the large allocation, and ends with the desired error.
_DISK_FULL = f"""
if [ "$(stat -c %d {DATA_FOLDER})" = "$(stat -c %d {DATA_FOLDER}/..)" ]; then
    echo '{DATA_FOLDER} is not a separate file system, so filling it would fill the whole machine' >&2
    exit {UNSUPPORTED_STATUS}
fi
fallocate -l "$(df --output=avail -B1 {DATA_FOLDER} | tail -1)" {FILL} 2>/dev/null
dd if=/dev/zero of={FILL} bs=4k oflag=append conv=notrunc 2>/dev/null
[ "$(df --output=avail -B1 {DATA_FOLDER} | tail -1)" -eq 0 ]
"""


def _clock(seconds: float) -> str:
    return f"""
if systemd-detect-virt --quiet --container; then
    echo 'it is a container and shares the clock of the machine that it runs on' >&2
    exit {UNSUPPORTED_STATUS}
fi
if [ -e {MARKS}/clock ]; then echo 'its clock was already changed' >&2; exit 1; fi
ntp=$(timedatectl show --property=NTP --value)
timedatectl set-ntp false
mkdir -p {MARKS} && date -s "{seconds:g} seconds" >/dev/null && echo "{seconds:g} $ntp" >{MARKS}/clock
"""
