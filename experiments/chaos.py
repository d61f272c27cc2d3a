"""Does exactly-once hold for jobs on a cluster with constant faults?

    python experiments/chaos.py [--minutes 3] [--seed 1] [--nodes 5] [--json]

Runs one random job after the other on its own local cluster. While a job runs, tasks and single agents are
killed, nodes crash and return, and nodes are paused for some seconds, but never so many at once that three
copies of a block could be lost. Each result is compared with that of the sequential reference program. If a
job emits a count for every tuple, the counts of each key must be 1, 2, 3 and so on. At the first difference,
the exit status is 1 and everything is kept for inspection.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.common.errors import RainStormError
from agent.common.shell import clock
from ops.cluster.connections import Connections, connected
from ops.cluster.inventory import load
from ops.demo import citysigns
from ops.demo.reference import expected_records, output_records
from ops.local.cluster import LocalCluster
from ops.local.layout import Layout

ROWS = 20_000
JOB_TIMEOUT_S = 120.0
# Not the addresses of the default cluster (127.0.0.1 and up), so that both can run at the same time.
FIRST_ADDRESS = "127.9.0.1"
FILTER = {"operator": "filter", "column": "Sign_Post", "equals": "Punched Telespar"}
COUNT = {"operator": "aggregate-by-key", "key": "Category", "function": "count"}
SELECT = {"operator": "transform", "select": ["OBJECTID", "Street"]}
FAULTS = ("task", "task", "task", "crash", "hang", "agent", "nothing")


@dataclass(slots=True)
class Trial:
    """The faults during one job, and its outcome."""

    job: str
    kind: str
    seconds: float = 0.0
    generations: int = 0
    term: int = 0
    faults: list[str] = field(default_factory=list)
    right: bool = False
    problem: str = ""

    def __str__(self) -> str:
        verdict = "right" if self.right else f"WRONG: {self.problem}"
        about = f"generation {self.generations}, term {self.term}; {', '.join(self.faults) or 'no fault'}"
        return f"{self.kind:7} {self.seconds:6.1f} s  {verdict}  {about}"


class Chaos:
    """A cluster, random faults, and jobs that must not be affected by them."""

    def __init__(self, folder: Path, nodes: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._folder = folder
        self._pause = threading.Event()
        self._cluster = LocalCluster(Layout(folder / "cluster", folder / "inventory", FIRST_ADDRESS))
        self._nodes = [peer.name for peer in self._cluster.up(nodes)]
        self._input = folder / "input.csv"
        self._input.write_bytes(b"".join(citysigns.generate(ROWS, seed)))
        self._count = 0

    def trials(self, minutes: float) -> Iterator[Trial]:
        """Yields one trial after the other until the time is up."""
        end = clock.monotonic() + 60 * minutes
        with connected(load(self._folder / "inventory")) as connections:
            with self._input.open("rb") as source:
                connections.hydfs().put("input", source)
            while clock.monotonic() < end:
                yield self._trial(connections)

    def stop(self, *, wipe: bool) -> None:
        """Stops the cluster."""
        self._cluster.down(wipe=wipe)

    def _trial(self, connections: Connections) -> Trial:
        self._count += 1
        spec, kind = self._spec()
        connections.prefer(self._rng.choice(self._nodes))
        began = clock.monotonic()
        trial = Trial(connections.rainstorm().submit(spec), kind)
        while clock.monotonic() < began + JOB_TIMEOUT_S:
            self._pause.wait(self._rng.uniform(0.3, 1.2))
            try:
                if connections.rainstorm().job(trial.job).has_ended:
                    break
                self._strike(connections, trial)
            except RainStormError as error:  # even a query may fail while a new leader is being elected
                trial.faults.append(f"({error.code})")
        ended = connections.rainstorm().wait(trial.job, JOB_TIMEOUT_S)
        trial.seconds = clock.monotonic() - began
        trial.generations, trial.term = ended.generation, ended.term
        if ended.state != "finished":
            trial.problem = f"{ended.state}: {ended.error}"
        else:
            trial.problem = self._compare(connections, spec, kind, ended.sink)
        trial.right = not trial.problem
        return trial

    def _spec(self) -> tuple[dict[str, Any], str]:
        kind = self._rng.choice(["final", "tuple", "select"])
        first: dict[str, Any] = {**FILTER, "tasks": self._rng.randint(1, 3)}
        second: dict[str, Any] = {**SELECT} if kind == "select" else {**COUNT, "emit": kind}
        second["tasks"] = self._rng.randint(1, 3)
        spec = {
            "name": f"chaos-{kind}",
            "source": {"file": "input", "format": "csv", "rate": self._rng.choice([2500, 5000])},
            "stages": [first, second],
            "sink": {"file": f"output-{self._count}"},
            "epoch_interval_ms": self._rng.choice([30, 50, 100]),
        }
        return spec, kind

    def _strike(self, connections: Connections, trial: Trial) -> None:
        fault, node = self._rng.choice(FAULTS), self._rng.choice(self._nodes)
        if fault == "nothing":
            return
        if fault == "task":
            killed = connections.rainstorm().kill_task()
            trial.faults.append(f"task {killed.task} on {killed.node}")
            return
        connections.prefer(self._rng.choice([name for name in self._nodes if name != node]))
        trial.faults.append(f"{fault} {node}")
        if fault == "hang":
            self._cluster.pause(node)
            self._pause.wait(self._rng.uniform(0.2, 4.0))
            self._cluster.resume(node)
            return
        if fault == "agent":
            self._kill_agent(node, self._rng.choice(("membership", "hydfs", "rainstorm")))
            self._pause.wait(self._rng.uniform(0.0, 2.0))
        self._cluster.crash(node)
        self._pause.wait(self._rng.uniform(0.0, 3.0))
        self._cluster.start(node)

    def _kill_agent(self, node: str, service: str) -> None:
        for each in self._cluster.processes(node):
            if f"agent {service} " in " ".join(each.process.cmdline()):
                each.process.kill()

    def _compare(self, connections: Connections, spec: dict[str, Any], kind: str, sink: str) -> str:
        """Returns how the result differs from the expected one; empty if it does not."""
        output = io.BytesIO()
        connections.hydfs().get(sink, output)
        found = output_records(spec, output.getvalue())
        if kind != "tuple":
            wanted = Counter(expected_records(spec, self._input))
            return _difference(wanted, Counter(found))
        running: Counter[str] = Counter()
        for record in found:
            key, value = record.rsplit(",", 1)
            running[key] += 1
            if int(value) != running[key]:
                return f"the count of {key!r} is {value} instead of {running[key]}"
        final = {**spec, "stages": [spec["stages"][0], {**COUNT, "emit": "final"}]}
        totals = (record.rsplit(",", 1) for record in expected_records(final, self._input))
        return _difference(Counter({key: int(value) for key, value in totals}), running)


def _difference(wanted: Counter[str], found: Counter[str]) -> str:
    missing, extra = wanted - found, found - wanted
    if not missing and not extra:
        return ""
    return f"{missing.total()} records missing, {extra.total()} unexpected"


def main() -> int:
    """Runs the trials and reports their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="duration (default 3)")
    parser.add_argument(
        "--seed", type=int, default=1, help="selects the jobs and faults (their timing still varies)"
    )
    parser.add_argument("--nodes", type=int, default=5, help="size of the cluster, at least 5")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    if options.nodes < 5 or options.minutes <= 0:
        parser.error("use at least 5 nodes and more than 0 minutes")
    folder = Path(tempfile.mkdtemp(prefix="rainstorm-chaos-"))
    trials: list[Trial] = []
    chaos: Chaos | None = None
    try:
        chaos = Chaos(folder, options.nodes, options.seed)
        for trial in chaos.trials(options.minutes):
            trials.append(trial)
            print(f"{len(trials):4} {trial}", file=sys.stderr)
            if not trial.right:
                break
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        wrong = sum(not trial.right for trial in trials)
        if chaos is not None:
            chaos.stop(wipe=not wrong)
        if wrong:
            print(f"kept for inspection: {folder}", file=sys.stderr)
        else:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
    struck = sum(len(trial.faults) for trial in trials)
    if options.json:
        found = {"seed": options.seed, "jobs": len(trials), "faults": struck, "wrong": wrong}
        print(json.dumps({**found, "trials": [asdict(trial) for trial in trials]}))
    else:
        print(f"{len(trials)} jobs, {struck} faults, {wrong} wrong")
    return 1 if wrong or not trials else 0


if __name__ == "__main__":
    sys.exit(main())
