"""How many healthy nodes are declared dead while datagrams get lost and two nodes are unhealthy?

Ten membership agents run on loopback addresses. Every node drops a share of the datagrams that reach it. One
node is paused for 5 s of every 20 s. One node is starved: by default it may run for 20 ms of every 200 ms
(like a machine whose processor time is taken away); with ``--starve spin``, four busy loops share its
processor. Every death that any node declares is counted, including those declared by the two unhealthy nodes.

A false death is a period during which at least one observer believes that one of the eight healthy nodes is
dead. Deaths of the starved node are counted separately, because it is barely alive. Declaring the paused node
dead is correct; the share of its pauses that another node detected is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import psutil

    from experiments import _harness as harness
    from experiments._cluster import MembershipCluster, Seen, cancel, false_deaths, pause
    from experiments._harness import Experiment, Recorder, Row
    from experiments._variants import VARIANTS, Variant, add_cluster_options, settings_of, variant_named
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

NODES = 10
LOSS_PERCENT = (0, 5, 10, 20, 30, 40, 50, 60)
PAUSED_S, PAUSE_EVERY_S = 5.0, 20.0
STARVED_RUN_S, STARVED_EVERY_S = 0.02, 0.2
BUSY_LOOPS = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    add_cluster_options(parser)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--loss", type=float, nargs="+", default=LOSS_PERCENT, metavar="PERCENT")
    parser.add_argument("--duration-s", type=float, default=20.0, help="duration of one run")
    parser.add_argument("--starve", choices=("duty", "spin"), default="duty")
    parser.add_argument(
        "--parallel", type=int, default=2, help="number of clusters that run at the same time"
    )


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples, each variant in its own cluster."""
    variants = [variant_named(name) for name in options.variants]
    with ThreadPoolExecutor(options.parallel, thread_name_prefix="experiment") as pool:
        try:
            jobs = [
                pool.submit(_measure_variant, options, recorder, slot, variant)
                for slot, variant in enumerate(variants)
            ]
            for job in jobs:
                job.result()
        except BaseException:
            cancel()
            pool.shutdown(cancel_futures=True)
            raise


def _measure_variant(options: argparse.Namespace, recorder: Recorder, slot: int, variant: Variant) -> None:
    rng = random.Random(f"{options.seed}:{variant}")
    schedule = [(loss, run) for run in range(options.runs) for loss in options.loss]
    schedule.sort(key=lambda entry: (entry[1], rng.random()))
    harness.say(f"{variant}: starting {options.nodes} agents")
    with MembershipCluster(options.nodes, slot=slot, settings=settings_of(options)) as cluster:
        cluster.wait_calm()
        cluster.switch(variant)
        for done, (loss, run) in enumerate(schedule, 1):
            row = _run_once(cluster, options, rng, loss)
            recorder.add(
                detector=variant.detector,
                suspicion=variant.suspicion,
                loss_percent=loss,
                run=run,
                duration_s=options.duration_s,
                **row,
                lost_events=cluster.lost_events,
            )
            harness.say(
                f"[{done}/{len(schedule)}] {variant}, {loss:g} % loss, {options.duration_s:g} s: "
                f"{row['false_deaths']} false deaths, starved node {row['starved_deaths']}"
            )


def _run_once(
    cluster: MembershipCluster, options: argparse.Namespace, rng: random.Random, loss: float
) -> Row:
    paused, starved = rng.sample(cluster.names, 2)
    cluster.wait_calm()
    cluster.forget()
    cluster.drop(loss, rng.randrange(1 << 31))
    starving = _busy if options.starve == "spin" else _throttled
    pauses = 0
    try:
        with starving(cluster, starved):
            left_s = options.duration_s
            while left_s > 0:
                pauses += 1
                with _stopped(cluster, paused):
                    pause(min(PAUSED_S, left_s))
                pause(max(0.0, min(PAUSE_EVERY_S, left_s) - PAUSED_S))
                left_s -= PAUSE_EVERY_S
    finally:
        cluster.drop(0.0, 0)
    cluster.wait_calm()
    seen = cluster.snapshot()
    unwell = (paused, starved)
    false, reports = false_deaths(seen, unwell)
    _, reports_by_well = false_deaths([each for each in seen if each.observer not in unwell], unwell)
    starved_deaths, _ = false_deaths([each for each in seen if each.name == starved])
    return {
        "false_deaths": false,
        "false_reports": reports,
        "false_reports_by_unwell": reports - reports_by_well,
        "starved_deaths": starved_deaths,
        "pauses": pauses,
        "pauses_noticed": min(pauses, _deaths(seen, paused)),
    }


def _deaths(seen: list[Seen], name: str) -> int:
    return false_deaths([each for each in seen if each.name == name])[0]


@contextlib.contextmanager
def _stopped(cluster: MembershipCluster, name: str) -> Iterator[None]:
    cluster.signal([name], signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.signal([name], signal.SIGCONT)


@contextlib.contextmanager
def _throttled(cluster: MembershipCluster, name: str) -> Iterator[None]:
    """Lets a node run only a tenth of the time."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            with _stopped(cluster, name):
                over.wait(STARVED_EVERY_S - STARVED_RUN_S)
            over.wait(STARVED_RUN_S)

    thread = threading.Thread(target=throttle, name=f"throttle-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _busy(cluster: MembershipCluster, name: str) -> Iterator[None]:
    """Makes a node share one processor with busy loops."""
    allowed = psutil.Process().cpu_affinity()
    cluster.process(name).cpu_affinity(allowed[-1:])
    loops = [cluster.spin(name, allowed[-1]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait(timeout=5.0)
        cluster.process(name).cpu_affinity(allowed)


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each variant and loss."""
    lines = []
    for variant in VARIANTS:
        mine = [r for r in rows if (r["detector"], r["suspicion"]) == (variant.detector, variant.suspicion)]
        for loss in sorted({float(row["loss_percent"]) for row in mine}):
            runs = [row for row in mine if float(row["loss_percent"]) == loss]
            false = [int(row["false_deaths"]) for row in runs]
            minutes = sum(float(row["duration_s"]) for row in runs) / 60
            lines.append(
                {
                    "detector": variant.detector,
                    "suspicion": variant.suspicion,
                    "loss_percent": harness.number(loss),
                    "runs": len(runs),
                    "minutes": harness.number(minutes, 1),
                    "false_deaths": sum(false),
                    "false_deaths_p50": harness.number(harness.median(false)),
                    "false_deaths_per_10_min": harness.number(sum(false) / minutes * 10, 1),
                    "false_reports": sum(int(row["false_reports"]) for row in runs),
                    "false_reports_by_unwell": sum(int(row["false_reports_by_unwell"]) for row in runs),
                    "starved_deaths": sum(int(row["starved_deaths"]) for row in runs),
                    "pauses": sum(int(row["pauses"]) for row in runs),
                    "pauses_noticed": sum(int(row["pauses_noticed"]) for row in runs),
                }
            )
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Draws every run and the medians."""
    from experiments import _plots as plots

    figure, axes = plots.figure(width_in=plots.TWO_COLUMNS_IN, height_in=2.6)
    losses = sorted({float(row["loss_percent"]) for row in rows})
    for place, variant in enumerate(VARIANTS):
        series: dict[float, list[float]] = {}
        for row in rows:
            if (row["detector"], row["suspicion"]) == (variant.detector, variant.suspicion):
                rate = float(row["false_deaths"]) / float(row["duration_s"]) * 60
                series.setdefault(float(row["loss_percent"]), []).append(rate)
        offset = (place - (len(VARIANTS) - 1) / 2) * 0.8
        plots.medians_and_points(axes, series, str(variant), place, offset=offset)
    axes.set_yscale("symlog", linthresh=3.0)
    axes.set_ylim(bottom=-0.3)
    axes.set_xticks(losses)
    axes.set_xlabel("Datagrams lost (%)")
    axes.set_ylabel("Healthy nodes declared\ndead (1/min)")
    plots.legend(axes)
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "false_positives",
    "Healthy nodes declared dead under loss, with one paused and one starved node.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"loss": (0, 30), "duration_s": 8.0, "runs": 1},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
