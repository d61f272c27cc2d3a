"""What does failure detection cost a node at rest: bytes sent, processor time, memory?

Real agents, N = 2 to 10: each agent counts its datagrams, and 28 bytes of UDP and IP headers are added for
each. The result also shows what the loopback interface carried meanwhile, divided by N: the datagrams, the
little TCP traffic of the view register, and whatever else used the interface. In a separate network namespace
(``unshare -n sh -c 'ip link set lo up; ...'``) this checks the agents' own counters.

Simulated, N = 10 to 10,000: ``python -m tests.simulation.scale`` runs the same detector core (SWIM with
suspicion), measures the same encoded and sealed datagrams, and for 100 nodes or more uses the settings for
large groups (probe interval 1 s).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import psutil

    from agent.common.errors import DeadlineExceeded, Unavailable
    from agent.common.shell import clock
    from experiments import _harness as harness
    from experiments._cluster import MembershipCluster, pause
    from experiments._harness import Experiment, Recorder, Row
    from experiments._variants import VARIANTS, Variant, add_cluster_options, settings_of, variant_named
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

NODES = (2, 4, 6, 8, 10)
SIMULATED = (10, 100, 1000, 10_000)
HEADER_BYTES = 28  # IPv4 and UDP
SIMULATION_TIMEOUT_S = 900.0
REAL, SIMULATED_KIND = "real", "simulated"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    add_cluster_options(parser)
    parser.set_defaults(variants=[str(variant) for variant in VARIANTS if variant.suspicion])
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES, help="sizes of real clusters")
    parser.add_argument(
        "--simulated", type=int, nargs="*", default=SIMULATED, help="sizes of simulated clusters"
    )
    parser.add_argument(
        "--duration-s", type=float, default=10.0, help="duration of one run, after an equally long pause"
    )


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples."""
    for nodes in options.nodes:
        harness.say(f"starting {nodes} agents")
        with MembershipCluster(nodes, settings=settings_of(options)) as cluster:
            cluster.wait_calm()
            for variant in [variant_named(name) for name in options.variants]:
                cluster.switch(variant)
                pause(options.duration_s)  # the traffic caused by the switch is not traffic at rest
                for run in range(options.runs):
                    _measure_real(cluster, recorder, variant, options.duration_s, run)
    for nodes in options.simulated:
        # One run averages over so many nodes that repeating the largest ones adds little.
        for run in range(options.runs if nodes <= 1000 else 1):
            found = _simulate(nodes, options.seed + run)
            _add(recorder, SIMULATED_KIND, VARIANTS[0], nodes, run, sent=found["quiet_bytes_per_s"])
            harness.say(f"simulated, {nodes} nodes: {found['quiet_bytes_per_s']:.0f} B/s per node")


def _measure_real(
    cluster: MembershipCluster, recorder: Recorder, variant: Variant, duration_s: float, run: int
) -> None:
    began, before, interface = clock.monotonic(), _counters(cluster), _loopback_bytes()
    pause(duration_s)
    took_s, after = clock.monotonic() - began, _counters(cluster)
    loopback = (_loopback_bytes() - interface) / took_s / len(cluster.names)
    total = 0.0
    for name in cluster.names:
        payload = (after[name]["bytes"] - before[name]["bytes"]) / took_s
        sent = payload + (after[name]["datagrams"] - before[name]["datagrams"]) * HEADER_BYTES / took_s
        total += sent
        _add(
            recorder,
            REAL,
            variant,
            len(cluster.names),
            run,
            node=name,
            sent=sent,
            payload=payload,
            loopback=loopback,
            processor=(after[name]["processor_s"] - before[name]["processor_s"]) / took_s * 100,
            memory=after[name]["memory_bytes"] / 2**20,
        )
    harness.say(f"{variant}, {len(cluster.names)} nodes: {total / len(cluster.names):.0f} B/s per node")


def _counters(cluster: MembershipCluster) -> dict[str, Row]:
    found = {}
    for name in cluster.names:
        datagrams, process = cluster.members(name).datagrams, cluster.process(name)
        times = process.cpu_times()
        found[name] = {
            "bytes": datagrams.sent_bytes,
            "datagrams": datagrams.sent,
            "processor_s": times.user + times.system,
            "memory_bytes": process.memory_info().rss,
        }
    return found


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def _add(
    recorder: Recorder,
    kind: str,
    variant: Variant,
    nodes: int,
    run: int,
    *,
    sent: float,
    node: str = "mean",
    payload: float | None = None,
    loopback: float | None = None,
    processor: float | None = None,
    memory: float | None = None,
) -> None:
    measured = {
        "bytes_per_s": sent,
        "payload_bytes_per_s": payload,
        "loopback_bytes_per_s": loopback,
        "processor_percent": processor,
        "memory_mib": memory,
    }
    recorder.add(
        kind=kind,
        detector=variant.detector,
        suspicion=variant.suspicion,
        nodes=nodes,
        run=run,
        node=node,
        **{name: "" if value is None else round(value, 3) for name, value in measured.items()},
    )


def _simulate(nodes: int, seed: int) -> Row:
    # Traffic at rest is measured before the first failure; the program simulates at least one.
    command = [sys.executable, "-m", "tests.simulation.scale", "--nodes", str(nodes), "--failures", "1"]
    try:
        done = subprocess.run(
            [*command, "--seed", str(seed), "--json"],
            cwd=harness.REPOSITORY,
            capture_output=True,
            text=True,
            timeout=SIMULATION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"{nodes} simulated nodes took more than {SIMULATION_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise Unavailable(f"the simulation of {nodes} nodes failed: {done.stderr.strip()[-500:]}")
    found: Row = json.loads(done.stdout)
    return found


def per_run(rows: list[Row]) -> dict[tuple[str, str, bool, int], dict[int, list[Row]]]:
    """Returns the samples by kind, variant and number of nodes, then by run."""
    found: dict[tuple[str, str, bool, int], dict[int, list[Row]]] = {}
    for row in rows:
        key = (str(row["kind"]), str(row["detector"]), bool(row["suspicion"]), int(row["nodes"]))
        found.setdefault(key, {}).setdefault(int(row["run"]), []).append(row)
    return found


def _means(runs: dict[int, list[Row]], column: str = "bytes_per_s") -> list[float]:
    return [sum(float(row[column]) for row in samples) / len(samples) for samples in runs.values()]


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each kind, variant and number of nodes."""
    lines = []
    for (kind, detector, suspicion, nodes), runs in per_run(rows).items():
        means, samples = _means(runs), [row for each in runs.values() for row in each]
        real = kind == REAL
        lines.append(
            {
                "kind": kind,
                "detector": detector,
                "suspicion": suspicion,
                "nodes": nodes,
                "runs": len(means),
                "bytes_per_s_p50": harness.number(harness.median(means), 1),
                "bytes_per_s_max": harness.number(max(float(row["bytes_per_s"]) for row in samples), 1),
                "loopback_bytes_per_s_p50": (
                    harness.number(harness.median(_means(runs, "loopback_bytes_per_s")), 1) if real else None
                ),
                "processor_percent_p50": (
                    harness.number(harness.median(_means(runs, "processor_percent")), 2) if real else None
                ),
                "memory_mib_max": (
                    harness.number(max(float(row["memory_mib"]) for row in samples), 1) if real else None
                ),
            }
        )
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Draws every run and the medians: real clusters on the left, simulated ones on the right."""
    from experiments import _plots as plots

    found = per_run(rows)
    figure, (left, right) = plots.panels(2, width_in=plots.TWO_COLUMNS_IN, height_in=2.5)
    for axes, kind in ((left, REAL), (right, SIMULATED_KIND)):
        for place, variant in enumerate(VARIANTS):
            series: dict[float, list[float]] = {
                nodes: _means(runs)
                for (its_kind, detector, suspicion, nodes), runs in found.items()
                if its_kind == kind and (detector, suspicion) == (variant.detector, variant.suspicion)
            }
            plots.medians_and_points(axes, series, str(variant), place)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Sent by a node at rest (B/s)")
    sizes = sorted({key[3] for key in found if key[0] == REAL})
    left.set_xticks(sizes)
    left.set_xlabel("Nodes, real agents")
    right.set_xscale("log")
    right.set_xlabel("Nodes, simulated\n(from 100 on: one probe per second)")
    plots.legend(left, columns=2)
    plots.legend(right)
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "membership_bandwidth",
    "Bytes, processor time and memory that failure detection costs a node at rest.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"nodes": (2, 10), "simulated": (10, 100), "duration_s": 3.0, "runs": 2},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
