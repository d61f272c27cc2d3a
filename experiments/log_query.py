"""How long does a search of all nodes' logs take, compared with the slowest node's own grep?

N logs agents run on loopback addresses, each with a log of M MB. For each pattern the experiment times, in
turn: the nodes' own greps, all at once as they would run on N machines, of which the slowest counts; the
search through the agents, from the first request to the last byte (``query``); and the command ``fab grep``
including its start (``command``). The outputs must be equal byte for byte, node by node. On one machine, all
N greps share its processors in both cases.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    from agent.common.errors import Corrupt, Unavailable
    from agent.common.shell import clock
    from agent.logs.messages import StartSearch
    from experiments import _harness as harness
    from experiments._harness import Experiment, Recorder, Row
    from experiments._logs_cluster import LogsCluster
    from ops.cluster.connections import Connections, connected
    from ops.logs.grep import ClusterSearch
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

LOG = "measured.log"
WORDS = (
    "put",
    "get",
    "append",
    "sealed",
    "rolled",
    "error",
    "timeout",
    "10.0.0.1",
    "10.0.0.2",
    "vm3",
    "retry",
)
# The patterns, how often they match, and grep's options for them.
PATTERNS = {
    "rare": ("request=00012345 ", ()),
    "common": ("error timeout", ()),
    "expression": (r"(error|timeout).*vm[0-9] .*bytes=[0-9]*7$", ("extended",)),
    "context": ("sealed sealed sealed", ("line_numbers",)),
}
OPTIONS = {"extended": "-E", "line_numbers": "-n"}
FAB = Path(sys.executable).with_name("fab")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--nodes", type=int, default=10, help="number of agents")
    parser.add_argument("--megabytes", type=int, default=60, help="size of the log on each node, in MB")
    parser.add_argument("--patterns", nargs="+", choices=sorted(PATTERNS), default=sorted(PATTERNS))


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples."""
    with LogsCluster(options.nodes) as cluster, connected(cluster.inventory()) as connections:
        harness.say(f"writing {options.megabytes} MB of log for each of {options.nodes} nodes")
        for number, name in enumerate(cluster.names):
            write_log(cluster.log_folder(name) / LOG, options.megabytes * 1_000_000, options.seed + number)
        for pattern in options.patterns:
            sample(cluster, connections, pattern)  # this run fills the page cache and does not count
            for run in range(options.runs):
                row = sample(cluster, connections, pattern)
                size = {"nodes": options.nodes, "megabytes": options.megabytes}
                recorder.add(pattern=pattern, run=run, **size, **row)
                times = f"query {row['query_s']:.3f} s, slowest grep {row['grep_s']:.3f} s"
                harness.say(f"[{run + 1}/{options.runs}] {pattern}: {times}")


def write_log(path: Path, size: int, seed: int) -> None:
    """Writes lines like those of the agents."""
    rng = random.Random(seed)
    # Some thousand different line endings suffice, so that the generator is not the bottleneck.
    endings = [f"{' '.join(rng.choices(WORDS, k=8))} bytes={rng.randrange(10**6)}\n" for _ in range(5000)]
    written = number = 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            second, part = divmod(number, 1000)
            stamp = (
                f"2026-11-20T{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{part:03d}Z"
            )
            line = f"{stamp} INFO agent.hydfs request={number:08d} {rng.choice(endings)}"
            file.write(line)
            written += len(line)
            number += 1


def sample(cluster: LogsCluster, connections: Connections, pattern: str) -> Row:
    """Times the nodes' own greps, the query and the command once each."""
    expression, switches = PATTERNS[pattern]
    with tempfile.TemporaryDirectory(prefix="rs-grep-") as folder:
        outputs = {name: Path(folder) / name for name in cluster.names}
        command = ["grep", "-a", "-H", *(OPTIONS[switch] for switch in switches), "-e", expression, LOG]
        times = own_greps(cluster, command, outputs)
        begun = clock.monotonic()
        query = StartSearch(
            search="-",
            pattern=expression.encode(),
            files=(LOG,),
            extended="extended" in switches,
            line_numbers="line_numbers" in switches,
        )
        search = ClusterSearch(connections, cluster.names, query)
        found: dict[str, list[bytes]] = {name: [] for name in cluster.names}
        for piece in search:
            found[piece.node].append(piece.data)
        query_s = clock.monotonic() - begun
        for result in search.results:
            if not result.complete:
                raise Unavailable(f"{result.node}: {result.state} {result.problems}")
            if b"".join(found[result.node]) != outputs[result.node].read_bytes():
                raise Corrupt(f"{result.node}: the agent's output differs from that of grep")
        command_s = time_command(cluster, expression, switches, Path(folder) / "all")
    return {
        "grep_s": round(max(times), 4),
        "query_s": round(query_s, 4),
        "command_s": round(command_s, 4),
        "matches": sum(result.matches for result in search.results),
        "output_bytes": sum(len(data) for pieces in found.values() for data in pieces),
    }


def time_command(cluster: LogsCluster, expression: str, switches: tuple[str, ...], output: Path) -> float:
    """Returns how long ``fab grep`` takes, including its start."""
    command = [str(FAB), "grep", *(OPTIONS[switch] for switch in switches), f"--pattern={expression}"]
    begun = clock.monotonic()
    with output.open("wb") as file:
        status = subprocess.run(
            [*command, "--files", LOG, "--inventory", str(cluster.inventory().path)],
            stdout=file,
            stderr=subprocess.DEVNULL,
            cwd=harness.REPOSITORY,
            check=False,
        ).returncode
    if status:
        raise Unavailable(f"fab grep ended with status {status}")
    return clock.monotonic() - begun


def own_greps(cluster: LogsCluster, command: list[str], outputs: dict[str, Path]) -> list[float]:
    """Returns how long each node's own grep takes while all run at once."""
    begun = clock.monotonic()
    running = {}
    for name, path in outputs.items():
        with path.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                cwd=cluster.log_folder(name),
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # like the agents: Linux shares processors among sessions first
            )
        running[process.pid] = process
    times = []
    while running:
        pid, status = os.wait()
        times.append(clock.monotonic() - begun)
        running.pop(pid).returncode = os.waitstatus_to_exitcode(status)
    return times


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each pattern: medians, and how much longer than the slowest grep."""
    lines = []
    for pattern in dict.fromkeys(str(row["pattern"]) for row in rows):
        own = [row for row in rows if row["pattern"] == pattern]
        ratios = [float(row["query_s"]) / float(row["grep_s"]) for row in own]
        lines.append(
            {
                "pattern": pattern,
                "nodes": own[0]["nodes"],
                "megabytes": own[0]["megabytes"],
                "runs": len(own),
                "matches": own[0]["matches"],
                "output_mb": harness.number(float(own[0]["output_bytes"]) / 1e6, 1),
                "grep_s_p50": harness.number(harness.median([float(row["grep_s"]) for row in own])),
                "query_s_p50": harness.number(harness.median([float(row["query_s"]) for row in own])),
                "command_s_p50": harness.number(harness.median([float(row["command_s"]) for row in own])),
                "ratio_p50": harness.number(harness.median(ratios), 2),
                "ratio_max": harness.number(max(ratios), 2),
            }
        )
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Draws, for each pattern, the three times of every run and their medians."""
    from experiments import _plots as plots

    patterns = list(dict.fromkeys(str(row["pattern"]) for row in rows))
    figure, axes = plots.figure()
    for place, (column, label) in enumerate(
        (("grep_s", "slowest node's grep"), ("query_s", "query"), ("command_s", "fab grep"))
    ):
        series: dict[float, list[float]] = {
            number: [float(row[column]) for row in rows if row["pattern"] == pattern]
            for number, pattern in enumerate(patterns)
        }
        plots.medians_and_points(axes, series, label, place, joined=False)
    axes.set_xticks(range(len(patterns)), patterns)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Time (s)")
    plots.legend(axes, columns=3)
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "log_query",
    "Duration of a search of all nodes' logs, compared with the slowest node's own grep.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"nodes": 3, "megabytes": 5, "runs": 2},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
