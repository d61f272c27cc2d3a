"""How long does it take until every survivor believes that nodes that fell silent are dead?

Ten membership agents run on loopback addresses. One to five of them are stopped at the same moment (SIGSTOP:
a silent machine; ``--signal kill``: a crash, after which connections are refused). For each victim and
survivor, the experiment measures the time from just before the first signal to the survivor's own event
"dead". The result of a run is the longest of these times: from then on the victims are dead in **all** lists.

The runs of all variants are interleaved in random order, so that a change of load on the machine affects all
alike. Before each run every node is alive in all lists and considers itself healthy.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    from agent.common.shell import clock
    from experiments import _harness as harness
    from experiments._cluster import MembershipCluster, Seen, false_deaths, pause
    from experiments._harness import Experiment, Recorder, Row
    from experiments._variants import VARIANTS, Variant, add_cluster_options, settings_of, variant_named
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

NODES = 10
FAILURES = (1, 2, 3, 4, 5)
DETECTION_S_MAX = 30.0
SIGNALS = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument(
        "--failures", type=int, nargs="+", default=FAILURES, help="number of simultaneous failures"
    )
    add_cluster_options(parser)
    parser.add_argument("--signal", choices=SIGNALS, default="stop", help="fall silent, or crash")


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples."""
    rng = random.Random(options.seed)
    variants = [variant_named(name) for name in options.variants]
    schedule = [
        (variant, failures, run)
        for run in range(options.runs)
        for variant in variants
        for failures in options.failures
        if not options.quick or variant == VARIANTS[0] or failures == min(options.failures)
    ]
    # Whole rounds stay together, so that even an interrupted experiment has all variants about equally often.
    schedule = sorted(schedule, key=lambda entry: (entry[2], rng.random()))
    harness.say(f"starting {options.nodes} agents")
    with MembershipCluster(options.nodes, settings=settings_of(options)) as cluster:
        cluster.wait_calm()
        for done, (variant, failures, run) in enumerate(schedule, 1):
            took = _run_once(cluster, recorder, rng, variant, failures, run, SIGNALS[options.signal])
            harness.say(f"[{done}/{len(schedule)}] {variant}, {failures} failing: {took:.2f} s")
        recorder.note(lost_events=cluster.lost_events)


def _run_once(
    cluster: MembershipCluster,
    recorder: Recorder,
    rng: random.Random,
    variant: Variant,
    failures: int,
    run: int,
    number: signal.Signals,
) -> float:
    cluster.switch(variant)
    cluster.wait_calm()
    victims = sorted(rng.sample(cluster.names, failures))
    survivors = [name for name in cluster.names if name not in victims]
    wanted = {(observer, victim) for observer in survivors for victim in victims}
    pause(rng.uniform(0.1, 0.6))  # so that the fault hits any phase of the probes
    cluster.forget()
    began = clock.monotonic()
    cluster.signal(victims, number)
    cluster.await_seen(lambda seen: wanted <= _first_deaths(seen).keys(), DETECTION_S_MAX)
    died = _first_deaths(cluster.snapshot())
    cluster.recover(victims)
    rejoined_s = cluster.wait_calm()
    false, _ = false_deaths(cluster.snapshot(), victims)
    for observer, victim in sorted(wanted):
        at = died.get((observer, victim))
        recorder.add(
            detector=variant.detector,
            suspicion=variant.suspicion,
            nodes=len(cluster.names),
            failures=failures,
            run=run,
            victim=victim,
            observer=observer,
            dead_after_s="inf" if at is None else round(at - began, 4),
            false_deaths=false,
            rejoined_s=round(rejoined_s, 3),
        )
    return max((at - began for at in died.values()), default=float("inf"))


def _first_deaths(seen: list[Seen]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for each in seen:
        if each.kind == "dead":
            found.setdefault((each.observer, each.name), each.at)
    return found


def per_run(rows: list[Row]) -> dict[tuple[str, bool, int], dict[int, list[Row]]]:
    """Returns the samples by variant and number of failures, then by run."""
    found: dict[tuple[str, bool, int], dict[int, list[Row]]] = {}
    for row in rows:
        key = (str(row["detector"]), bool(row["suspicion"]), int(row["failures"]))
        found.setdefault(key, {}).setdefault(int(row["run"]), []).append(row)
    return found


def slowest(runs: dict[int, list[Row]]) -> list[float]:
    """Returns for each run when all victims were dead in all lists."""
    return [max(float(row["dead_after_s"]) for row in samples) for samples in runs.values()]


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each variant and number of failures."""
    lines = []
    for variant in VARIANTS:
        for (detector, suspicion, failures), runs in sorted(per_run(rows).items()):
            if (detector, suspicion) == (variant.detector, variant.suspicion):
                times = slowest(runs)
                lines.append(
                    {
                        "detector": detector,
                        "suspicion": suspicion,
                        "failures": failures,
                        "runs": len(times),
                        "p50_s": harness.number(harness.median(times)),
                        "p99_s": harness.number(harness.percentile(times, 0.99)),
                        "false_deaths": sum(int(samples[0]["false_deaths"]) for samples in runs.values()),
                    }
                )
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Draws every run and the medians."""
    from experiments import _plots as plots

    figure, axes = plots.figure(width_in=plots.TWO_COLUMNS_IN, height_in=2.6)
    found = per_run(rows)
    failures = sorted({key[2] for key in found})
    for place, variant in enumerate(VARIANTS):
        series: dict[float, list[float]] = {
            count: slowest(found[variant.detector, variant.suspicion, count])
            for count in failures
            if (variant.detector, variant.suspicion, count) in found
        }
        offset = (place - (len(VARIANTS) - 1) / 2) * 0.16
        plots.medians_and_points(axes, series, str(variant), place, offset=offset)
    axes.set_xticks(failures)
    axes.set_xlim(failures[0] - 0.5, failures[-1] + 0.5)
    axes.set_xlabel(f"Nodes that fall silent at the same moment, of {rows[0]['nodes']}")
    axes.set_ylabel("Time until dead in all lists (s)")
    axes.set_ylim(bottom=0)
    plots.legend(axes)
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "detection_time",
    "Time until every survivor believes that nodes that fell silent are dead.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"failures": (1, 3, 5)},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
