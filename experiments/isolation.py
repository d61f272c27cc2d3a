"""How soon is a partly cut-off node evicted, does it stay out, and how soon is it back afterwards?

Ten membership agents run on loopback addresses; iptables rules drop packets between them, datagrams and TCP
alike. The faults: one node loses 80 % of what it sends and receives (``loss``), or only of what it receives
(``loss-in``) or sends (``loss-out``); one node receives nothing (``cut-in``), or nothing that it sends
arrives (``cut-out``); three of ten nodes are cut off from the others (``partition``). A fault lasts
``--fault-s`` (a partition ``--partition-s``), then everything is healed.

At the healthy nodes the experiment measures, from just before the fault, when the last of them believes the
victims dead, and when the last of them has a view without the victims. It also measures how often a victim
returned to a view during the fault, whether any other node was believed dead or evicted, and how long after
the fault all nodes believe all others alive and are up in every view.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    from agent.common.shell import clock
    from experiments import _faults as faults
    from experiments import _harness as harness
    from experiments._cluster import MembershipCluster, Seen, false_deaths, pause
    from experiments._harness import Experiment, Recorder, Row
    from experiments._variants import VARIANTS, add_cluster_options, settings_of, variant_named
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

NODES = 10
FAULTS = ("loss", "loss-in", "loss-out", "cut-in", "cut-out", "partition")
LOSS_SHARE = 0.8
PARTITION = "partition"
PARTITIONED_SHARE = 0.3
# A node that is not out by then never will be.
OUT_S_MAX = 30.0
BACK_S_MAX = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--fault-s", type=float, default=OUT_S_MAX, help="duration of a fault")
    parser.add_argument("--partition-s", type=float, default=120.0, help="duration of a partition")
    parser.add_argument(
        "--partition-runs", type=int, default=3, help="number of partitions (fewer, because they take long)"
    )
    add_cluster_options(parser)
    parser.set_defaults(variants=[str(VARIANTS[0])])


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples."""
    rng = random.Random(options.seed)
    schedule = [
        (variant_named(name), fault, run)
        for run in range(options.runs)
        for name in options.variants
        for fault in options.faults
        if fault != PARTITION or run < options.partition_runs
    ]
    schedule = sorted(schedule, key=lambda entry: (entry[2], rng.random()))
    harness.say(f"starting {options.nodes} agents")
    with (
        faults.Faults() as broken,
        MembershipCluster(options.nodes, settings=settings_of(options)) as cluster,
    ):
        cluster.wait_calm()
        for done, (variant, fault, run) in enumerate(schedule, 1):
            cluster.switch(variant)
            row = _run_once(cluster, broken, options, rng, fault)
            recorder.add(
                detector=variant.detector,
                suspicion=variant.suspicion,
                nodes=options.nodes,
                fault=fault,
                run=run,
                **row,
            )
            harness.say(
                f"[{done}/{len(schedule)}] {variant}, {fault}: out after {row['out_after_s']} s, "
                f"returned {row['returns']} times, back {row['back_after_s']} s after the end"
            )
        recorder.note(lost_events=cluster.lost_events)


def paths_of(fault: str, victims: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the pairs of nodes, from and to, between which packets get lost."""
    found = []
    if fault not in ("loss-out", "cut-out"):
        found += [(other, victim) for other in others for victim in victims]
    if fault not in ("loss-in", "cut-in"):
        found += [(victim, other) for other in others for victim in victims]
    return found


def _run_once(
    cluster: MembershipCluster,
    broken: faults.Faults,
    options: argparse.Namespace,
    rng: random.Random,
    fault: str,
) -> Row:
    cluster.wait_all_up(BACK_S_MAX)
    cluster.wait_calm()
    count = max(1, int(PARTITIONED_SHARE * options.nodes)) if fault == PARTITION else 1
    victims = sorted(rng.sample(cluster.names, count))
    healthy = [name for name in cluster.names if name not in victims]
    stands_s = options.partition_s if fault == PARTITION else options.fault_s
    pause(rng.uniform(0.1, 0.6))  # so that the fault hits any phase of the probes
    cluster.forget()
    began = clock.monotonic()
    try:
        paths = [(cluster.address(a), cluster.address(b)) for a, b in paths_of(fault, victims, healthy)]
        broken.lose(paths, LOSS_SHARE if fault.startswith("loss") else 1.0)
        pause(max(0.0, began + stands_s - clock.monotonic()))
    finally:
        broken.heal()
    healed = clock.monotonic()
    back_s = cluster.wait_all_up(BACK_S_MAX)
    seen = [each for each in cluster.snapshot() if each.observer in healthy]
    during = [each for each in seen if each.at < healed]
    false, _ = false_deaths(seen, victims)
    evicted = {n for views in _views(seen).values() for _, up in views for n in healthy if n not in up}
    return {
        "victims": " ".join(victims),
        "fault_s": stands_s,
        "dead_after_s": _shown(_all_dead_at(during, healthy, victims), began),
        "out_after_s": _shown(_all_out_at(during, healthy, victims), began),
        "returns": _returns(during, victims),
        "others_dead": false,
        "others_evicted": len(evicted),
        "back_after_s": round(back_s, 3),
    }


def _shown(at: float, began: float) -> float | str:
    return "inf" if at == float("inf") else round(at - began, 3)


def _views(seen: Sequence[Seen]) -> dict[str, list[tuple[float, set[str]]]]:
    """Returns for each observer the views that it learned, with the nodes that were up in them."""
    found: dict[str, list[tuple[float, set[str]]]] = {}
    for each in seen:
        if each.kind == "view":
            found.setdefault(each.observer, []).append((each.at, set(each.name.split())))
    return found


def _all_dead_at(seen: Sequence[Seen], healthy: Sequence[str], victims: Sequence[str]) -> float:
    first: dict[tuple[str, str], float] = {}
    for each in seen:
        if each.kind == "dead":
            first.setdefault((each.observer, each.name), each.at)
    return max(first.get((observer, victim), float("inf")) for observer in healthy for victim in victims)


def _all_out_at(seen: Sequence[Seen], healthy: Sequence[str], victims: Sequence[str]) -> float:
    views = _views(seen)
    return max(
        min((at for at, up in views.get(name, ()) if not up & set(victims)), default=float("inf"))
        for name in healthy
    )


def _returns(seen: Sequence[Seen], victims: Sequence[str]) -> int:
    """Returns how often victims returned to a view, as seen by the observer that saw it most often."""
    counts = [0]
    for views in _views(seen).values():
        ups = [up for _, up in views]
        counts.append(sum(len((after - before) & set(victims)) for before, after in pairwise(ups)))
    return max(counts)


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each variant and fault."""
    lines = []
    for variant in VARIANTS:
        for fault in FAULTS:
            runs = [row for row in rows if _key(row) == (variant.detector, variant.suspicion, fault)]
            if not runs:
                continue
            out, dead, back = (
                [float(row[name]) for row in runs] for name in ("out_after_s", "dead_after_s", "back_after_s")
            )
            lines.append(
                {
                    "detector": variant.detector,
                    "suspicion": variant.suspicion,
                    "fault": fault,
                    "runs": len(runs),
                    "fault_s": harness.number(float(runs[0]["fault_s"])),
                    "dead_p50_s": harness.number(harness.median(dead)),
                    "out_p50_s": harness.number(harness.median(out)),
                    "out_max_s": harness.number(max(out)),
                    "never_out": sum(value == float("inf") for value in out),
                    "returns": sum(int(row["returns"]) for row in runs),
                    "others_dead": sum(int(row["others_dead"]) for row in runs),
                    "others_evicted": sum(int(row["others_evicted"]) for row in runs),
                    "back_p50_s": harness.number(harness.median(back)),
                    "back_max_s": harness.number(max(back)),
                }
            )
    return lines


def _key(row: Row) -> tuple[str, bool, str]:
    return str(row["detector"]), bool(row["suspicion"]), str(row["fault"])


def draw(rows: list[Row], path: Path) -> None:
    """Draws every run and the medians: until out on the left, until back on the right."""
    from experiments import _plots as plots

    figure, panels = plots.panels(2, width_in=plots.TWO_COLUMNS_IN, height_in=2.6)
    shown = [fault for fault in FAULTS if any(row["fault"] == fault for row in rows)]
    columns = (("out_after_s", "Time until out of all views (s)"), ("back_after_s", "Time until back (s)"))
    for axes, (column, label) in zip(panels, columns, strict=True):
        for place, variant in enumerate(VARIANTS):
            series = {
                float(at): [
                    min(float(row[column]), OUT_S_MAX)
                    for row in rows
                    if _key(row) == (variant.detector, variant.suspicion, fault)
                ]
                for at, fault in enumerate(shown)
            }
            series = {at: values for at, values in series.items() if values}
            plots.medians_and_points(axes, series, str(variant), place, joined=False)
        axes.set_xticks(range(len(shown)), shown, rotation=30, ha="right")
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    plots.legend(panels[0])
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "isolation",
    "Time until a partly cut-off node is out, and until it is back after the fault.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"runs": 2, "fault_s": 8.0, "partition_s": 8.0, "partition_runs": 1},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
