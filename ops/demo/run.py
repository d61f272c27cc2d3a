"""``make demo``: five nodes, a million rows, a killed task, a killed node, and a check of the result.

The demo has its own cluster in ``.local/demo`` and stops it at the end, whatever happens: when it is
interrupted, when a step fails, or while a child process is being started. It runs the sample job twice on the
same input: first at full speed without faults, to measure the throughput; then slowed down to about ten
seconds, during which one task and later a whole node are killed. The result is compared, as a multiset, with
that of ``ops.demo.reference``, a sequential program that shares no code with the agents. The exit status
is 0 only if they are equal.

Recovery time = from just before the kill to the first epoch that a later generation of the job commits.
"""

from __future__ import annotations

import argparse
import copy
import io
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import psutil
import yaml

from agent.common.errors import AlreadyRunning, Internal, JobFailed, RainStormError, Unavailable
from agent.common.shell import clock
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.demo import reference, samples
from ops.demo import report as demo_report
from ops.demo.report import DemoReport
from ops.local.cluster import LocalCluster, demo_layout, only_demo
from ops.machine import processes
from ops.machine.memory import MemorySampler
from ops.output import progress, render
from ops.output.errors import describe

NODES = 5
ROWS = 1_000_000
SLOW_JOB_S = 10
KILL_TASK_AT = 0.3
KILL_NODE_AT = 0.6
JOB_TIMEOUT_S = 60.0
REFERENCE_TIMEOUT_S = 60.0
INPUT_NAME = "demo/city-signs.csv"


@dataclass(slots=True)
class Kill:
    """One fault: what was killed, when, and the job's generation before it."""

    what: str
    at: float
    generation: int

    def recovery_s(self, job: progress.Job) -> float | None:
        """Returns the time to the first commit of a later generation, or None if there is none."""
        later = [
            commit.at
            for commit in job.commits
            if commit.generation > self.generation and commit.at >= self.at
        ]
        return min(later) - self.at if later else None


@dataclass(frozen=True, slots=True)
class Options:
    """The choices of the command line."""

    nodes: int
    rows: int
    seed: int
    kill_leader: bool


class Faults:
    """Kills a task, then a node, while a job runs."""

    def __init__(
        self, cluster: LocalCluster, connections: Connections, shown: progress.Progress, options: Options
    ):
        self.task: Kill | None = None
        self.node: Kill | None = None
        self._cluster = cluster
        self._connections = connections
        self._shown = shown
        self._options = options

    def look(self, job: progress.Job) -> None:
        """Shows the job, and kills a task or node once the job has progressed far enough."""
        self._shown.update(job)
        done = job.lines_read / self._options.rows
        if job.state != "running":
            return
        if self.task is None and done >= KILL_TASK_AT:
            self._kill_task(job)
        elif self.node is None and done >= KILL_NODE_AT and self._recovered(job):
            self._kill_node(job)

    def _recovered(self, job: progress.Job) -> bool:
        return self.task is not None and self.task.recovery_s(job) is not None

    def _kill_task(self, job: progress.Job) -> None:
        running = [task for task in job.tasks if task.state == "running"]
        if not running:
            return
        chosen = running[0]
        at = clock.wall()
        killed = self._connections.rainstorm().kill_task(node=chosen.node, task=chosen.task, pid=chosen.pid)
        what = f"task {killed.task} ({chosen.operator}) on {killed.node}, pid {killed.pid}"
        self.task = Kill(what, at, job.generation)
        self._shown.note(f"  SIGKILL to {what}")

    def _kill_node(self, job: progress.Job) -> None:
        leader = job.leader
        gateway = self._connections.gateway("rainstorm")
        if self._options.kill_leader:
            node = leader
            if node == gateway:
                self._connections.prefer(next(n for n in self._connections.inventory.names() if n != node))
        else:
            loaded = [task.node for task in job.tasks if task.state == "running"]
            candidates = [*loaded, *reversed(self._connections.inventory.names())]
            node = next(name for name in candidates if name not in (leader, gateway))
        at = clock.wall()
        hit = self._cluster.crash(node)
        what = f"{node}{' (the leader)' if node == leader else ''}: {hit} processes at once"
        self.node = Kill(what, at, job.generation)
        self._shown.note(f"  SIGKILL to the whole node {what}")


class Demo:
    """The steps of the demo on one cluster."""

    def __init__(self, options: Options, cluster: LocalCluster, cache: Path) -> None:
        self._options = options
        self._cluster = cluster
        self._folder = cluster.layout.folder
        self._cache = cache
        self._begun = clock.monotonic()
        self._job = samples.load_job(samples.SAMPLE_JOB)
        self._job["source"]["file"] = INPUT_NAME

    def run(self) -> DemoReport:
        """Runs all steps and returns the measurements; ``total_s`` is filled in later.

        Raises:
            RainStormError: a step failed.
        """
        options = self._options
        first = self._cluster.layout.first_address
        self._step(f"starting {options.nodes} nodes, four agents each, on {first} and the addresses after it")
        self._cluster.up(options.nodes, fresh=True)
        start_s = clock.monotonic() - self._begun
        where = self._cluster.layout.inventory_path
        render.say(f"  up after {start_s:.1f} s; watch: fab status --inventory {where}")
        with connected(inventory.load(where)) as connections, MemorySampler(self._folder) as memory:
            local = self._store_input(connections)
            rate, healthy = self._run_healthy(connections)
            ended, faults = self._run_with_faults(connections, local)
            expected = self._expected(local)
            found = self._fetch(connections, ended)
        assert faults.task is not None
        assert faults.node is not None
        demo_report.print_comparison(expected, found)
        return DemoReport(
            equal=expected == found == healthy,
            lines=options.rows,
            healthy_lines_per_s=rate,
            task_recovery_s=faults.task.recovery_s(ended),
            node_recovery_s=faults.node.recovery_s(ended),
            total_s=0.0,
            agent_rss_mb_max=memory.agent_mb_max,
            task_rss_mb_max=memory.task_mb_max,
            agent_rss_worst=memory.agent_worst,
            task_rss_worst=memory.task_worst,
            killed_task=faults.task.what,
            killed_node=faults.node.what,
            nodes=options.nodes,
            seed=options.seed,
            job_s=ended.elapsed_s,
            start_s=start_s,
        )

    def _step(self, message: str) -> None:
        render.say(f"[{clock.monotonic() - self._begun:5.1f} s] {message}")

    def _store_input(self, connections: Connections) -> Path:
        rows, seed = self._options.rows, self._options.seed
        self._step(f"generating {rows:,} rows of traffic signs (seed {seed}) and storing them in HyDFS")
        local = samples.input_file(self._cache, rows, seed)
        begun = clock.monotonic()
        with open(local, "rb") as source:
            stat = connections.hydfs().put(INPUT_NAME, source)
        took_s = clock.monotonic() - begun
        render.say(
            f"  {render.size(stat.length)} in {len(stat.blocks)} blocks, three copies each, "
            f"{render.size(stat.length / took_s)}/s"
        )
        return local

    def _run_healthy(self, connections: Connections) -> tuple[float, Counter[str]]:
        self._step("healthy run at full speed: filter, then count by category, exactly once")
        job = copy.deepcopy(self._job)
        job["sink"]["file"] = "demo/healthy.csv"
        client = connections.rainstorm()
        begun = clock.monotonic()
        job_id = client.submit(job)
        ended = client.wait(job_id, JOB_TIMEOUT_S)
        took_s = clock.monotonic() - begun
        _require_finished(ended)
        rate = self._options.rows / took_s
        render.say(f"  {took_s:.2f} s from submission to end: {rate:,.0f} lines/s")
        return rate, self._fetch(connections, ended)

    def _run_with_faults(self, connections: Connections, local: Path) -> tuple[progress.Job, Faults]:
        job = copy.deepcopy(self._job)
        job["sink"]["file"] = "demo/result.csv"
        job["source"]["rate"] = max(1, self._options.rows // SLOW_JOB_S)
        self._step(f"the same job at {job['source']['rate']:,} lines/s, with faults")
        self._start_reference(local)
        client = connections.rainstorm()
        job_id = client.submit(job)
        shown = progress.Progress()
        faults = Faults(self._cluster, connections, shown, self._options)
        with shown.shown():
            ended = progress.follow(client, job_id, on_look=faults.look, timeout_s=JOB_TIMEOUT_S)
        _require_finished(ended)
        if faults.task is None or faults.node is None:
            raise Internal(
                "the job ended before both faults were injected, so this run proves nothing", hint="make demo"
            )
        return ended, faults

    def _start_reference(self, local: Path) -> None:
        path = self._folder / "job.yml"
        path.write_text(yaml.safe_dump(self._job), "utf-8")
        self._output = self._folder / "reference.txt"
        self._output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ops.demo.reference", str(path), str(local)]
        self._reference = processes.start(command, self._folder, "demo", self._output, inventory.REPOSITORY)

    def _expected(self, local: Path) -> Counter[str]:
        self._step("comparing with the sequential reference program")
        try:
            status = self._reference.wait(timeout=REFERENCE_TIMEOUT_S)
        except psutil.TimeoutExpired:
            raise Internal(
                f"the reference program is still running after {REFERENCE_TIMEOUT_S:g} s"
            ) from None
        data = self._output.read_bytes()
        if status:
            raise Internal(f"the reference program failed: {data[-500:].decode('utf-8', 'replace')}")
        return reference.output_records(self._job, data)

    def _fetch(self, connections: Connections, ended: progress.Job) -> Counter[str]:
        sink = io.BytesIO()
        connections.hydfs().get(ended.sink, sink)
        return reference.output_records(self._job, sink.getvalue())


def _require_finished(ended: progress.Job) -> None:
    if ended.state != "finished":
        raise JobFailed(
            f"job {ended.job} {ended.state}: {progress.reason(ended)}",
            hint="read the logs in .local/demo/vm*/logs",
        )


def _refuse_beside_a_cluster() -> None:
    if LocalCluster().running():
        raise AlreadyRunning(
            "a local cluster is up; the demo needs its addresses and ports",
            hint="fab local.down   (its data stays), then make demo",
        )


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # From here on everything is being stopped; a second Ctrl-C must not interrupt that.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit status."""
    parser = argparse.ArgumentParser("python -m ops.demo.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=NODES, help="size of the cluster, at least 3")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the input, at least 1000")
    parser.add_argument("--seed", type=int, default=samples.SEED, help="same seed, same input")
    parser.add_argument("--kill-leader", action="store_true", help="kill the leader's node")
    options = parser.parse_args(arguments)
    if options.nodes < 3 or options.rows < 1000:
        parser.error("the demo needs at least 3 nodes and 1000 rows")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt_once)
    try:
        return _run(Options(options.nodes, options.rows, options.seed, options.kill_leader))
    except RainStormError as error:
        print(describe("demo", error), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        render.say("demo: interrupted; everything it started is stopped")
        return 130


def _run(options: Options) -> int:
    begun = clock.monotonic()
    root = inventory.LOCAL_FOLDER
    cluster = LocalCluster(demo_layout())
    report_path = root / "demo-report.json"
    with only_demo():
        _refuse_beside_a_cluster()
        report_path.unlink(missing_ok=True)
        try:
            cluster.down()  # whatever a killed demo may have left behind
            report = Demo(options, cluster, root).run()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            cluster.down()
    report = replace(report, total_s=clock.monotonic() - begun)
    demo_report.write(report, report_path)
    demo_report.print_report(report)
    _print_further(report_path)
    if report.task_recovery_s is None or report.node_recovery_s is None:
        raise Unavailable(
            "no epoch was committed after a kill, so recovery was not observed", hint="make demo"
        )
    return 0 if report.equal else 1


def _print_further(report_path: Path) -> None:
    print(f"\nreport: {report_path}")
    print("look further:")
    print("  fab local.up && fab submit-job     start a local cluster and run the sample job on it")
    print("  fab status / fab list-tasks        show which task runs where")
    print("  fab kill-task --vm 3               kill a task yourself")
    print("  less .local/demo/vm1/logs/*.log    read the agents' logs of the demo")


if __name__ == "__main__":
    sys.exit(main())
