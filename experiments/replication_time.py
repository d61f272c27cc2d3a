"""How long does it take until every block of a file has three copies again after one of its nodes has died?

For each run a file is put into HyDFS, and all processes of one node that holds blocks of it are killed
(``fab fault.crash``). From then on the experiment polls the view and the file every 50 ms through
another node. It measures the time from the start of the kill command until the node is down in the view,
until the first lost copy has been replaced, and until every block of the file has three copies on living
nodes.

Afterwards it compares the blocks that the stores keep with the file table, reads the file back through
every node that got a new copy, and compares it with the original. Then the node is started again, and the
next run begins when ``fab verify`` would succeed. Runs of all sizes are interleaved in random order.

Without ``--inventory`` the experiment starts its own local cluster and removes it at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import random
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    from agent.common.deadline import Deadline
    from agent.common.errors import (
        Corrupt,
        DeadlineExceeded,
        RainStormError,
        Unavailable,
        UsageError,
    )
    from agent.common.shell import clock
    from agent.hydfs.client import READ_PIECE_BYTES, FileStat, HydfsClient
    from agent.wire.codec.framing import Buffer
    from experiments import _harness as harness
    from experiments._cluster import ADDRESSES_EACH, pause
    from experiments._harness import Experiment, Recorder, Row
    from experiments._repair import COPIES, Repair, check_copies, look_at, moved, thin
    from experiments._store_cluster import Crash, StoreCluster, named_cluster, own_cluster
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: run this with .venv/bin/python (make check installs it)") from None

NODES = 5
MEGABYTES = (1, 10, 20, 100)
# Three copies must fit on the disk, and the repair must take less than REPAIR_S_MAX.
MEGABYTES_MAX = 2000
MEGABYTE = 1_000_000
LOOK_INTERVAL_S = 0.05
# Failure detection takes about a second, the store waits three more, and copying 2 GB at 20 MB/s takes 100 s.
REPAIR_S_MAX = 180.0
READ_TIMEOUT_S = 30.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this experiment."""
    parser.add_argument("--nodes", type=int, default=NODES, help="size of the experiment's own cluster")
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=MEGABYTES, metavar="MB", help="sizes of the files"
    )
    parser.add_argument(
        "--inventory", default="", metavar="FILE", help="measure this cluster; nodes of it are killed"
    )


def measure(options: argparse.Namespace, recorder: Recorder) -> None:
    """Takes all samples."""
    _check(options)
    rng = random.Random(options.seed)
    schedule = [(megabytes, run) for run in range(options.runs) for megabytes in options.megabytes]
    # Whole rounds stay together, so that an interrupted experiment has every size about equally often.
    schedule = sorted(schedule, key=lambda entry: (entry[1], rng.random()))
    with contextlib.ExitStack() as stack:
        if options.inventory:
            cluster = stack.enter_context(named_cluster(options.inventory))
        else:
            harness.say(f"starting a cluster of {options.nodes} nodes")
            cluster = stack.enter_context(own_cluster(options.nodes))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rs-exp-file-")))
        _check_nodes(len(cluster.names))
        recorder.note(cluster=cluster.label, gateway=cluster.gateway)
        cluster.wait_settled()
        for done, (megabytes, run) in enumerate(schedule, 1):
            row = _run_once(cluster, rng, folder / "content", megabytes)
            recorder.add(megabytes=megabytes, run=run, nodes=len(cluster.names), **row)
            harness.say(
                f"[{done}/{len(schedule)}] {megabytes} MB, {row['victim']} killed: down in the view after "
                f"{row['dead_after_s']:.2f} s, three copies after {row['restored_after_s']:.2f} s"
            )


def _check(options: argparse.Namespace) -> None:
    for megabytes in options.megabytes:
        if not 1 <= megabytes <= MEGABYTES_MAX:
            raise UsageError(
                f"--megabytes {megabytes} is out of range", hint=f"at least 1, at most {MEGABYTES_MAX}"
            )
    if not options.inventory:
        _check_nodes(options.nodes)
        if options.nodes > ADDRESSES_EACH:
            raise UsageError(
                f"--nodes {options.nodes} is out of range", hint=f"at most {ADDRESSES_EACH} on this machine"
            )


def _check_nodes(count: int) -> None:
    if count <= COPIES:
        raise UsageError(
            f"a cluster of {count} nodes that loses one cannot hold {COPIES} copies",
            hint=f"it needs at least {COPIES + 1} nodes",
        )


def _run_once(cluster: StoreCluster, rng: random.Random, path: Path, megabytes: int) -> Row:
    wanted = write_content(path, megabytes, rng)
    name = f"experiments/replication-time/{uuid.uuid4().hex}"
    with path.open("rb") as source, cluster.file(name, source) as before:
        short = thin(before, cluster.up())
        if short:
            raise Unavailable(
                f"{len(short)} blocks of a new file have fewer than {COPIES} copies on living nodes",
                hint="fab verify --wait 60",
            )
        victim = choose_victim(before, cluster.gateway, rng)
        pause(rng.uniform(0.1, 0.6))  # any phase of the probes
        with cluster.crashed(victim) as crash:
            repair = _watch(cluster, before, victim, crash)
            after = cluster.stat(name)
            _check_data(cluster, before, after, wanted)
        settled_s = cluster.wait_settled()
    new = moved(before, after)
    return {
        "victim": victim,
        "blocks": len(before.blocks),
        "blocks_moved": new.blocks,
        "bytes_moved": new.bytes,
        "crash_command_s": round(crash.seconds.result(), 4),
        "dead_after_s": _since(crash, repair.dead_at),
        "first_copy_after_s": _since(crash, repair.first_copy_at),
        "restored_after_s": _since(crash, repair.restored_at),
        "longest_gap_s": round(repair.longest_gap_s, 4),
        "failed_looks": repair.failed_looks,
        "settled_after_start_s": round(settled_s, 3),
    }


def _since(crash: Crash, at: float | None) -> float:
    assert at is not None  # the repair is complete
    return round(at - crash.began, 4)


def write_content(path: Path, megabytes: int, rng: random.Random) -> str:
    """Writes this many megabytes of random bytes and returns their checksum."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            piece = rng.randbytes(MEGABYTE)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def choose_victim(stat: FileStat, gateway: str, rng: random.Random) -> str:
    """Returns a node that holds blocks of the file and is not the one that the experiment talks to."""
    holders = sorted({node for block in stat.blocks for node in block.replicas} - {gateway})
    return rng.choice(holders)


def _watch(cluster: StoreCluster, before: FileStat, victim: str, crash: Crash) -> Repair:
    repair = Repair(before, victim)
    deadline = Deadline(crash.began, REPAIR_S_MAX)
    next_at = crash.began
    while True:
        if crash.seconds.done():
            crash.seconds.result()  # the command may have failed
        try:
            up = cluster.up()
            repair.saw_view(clock.monotonic(), up)
            stat = cluster.stat(before.name)
            repair.saw_file(clock.monotonic(), stat, up)
        except RainStormError:
            repair.failed_looks += 1
        if repair.complete:
            return repair
        now = clock.monotonic()
        if deadline.expired(now):
            raise DeadlineExceeded(
                f"{REPAIR_S_MAX:g} s after {victim} was killed {repair.missing()} "
                f"({repair.failed_looks} looks failed)",
                hint="fab status",
            )
        next_at = max(next_at + LOOK_INTERVAL_S, now)
        pause(next_at - now)


def _check_data(cluster: StoreCluster, before: FileStat, after: FileStat, wanted: str) -> None:
    holders = sorted({node for block in after.blocks for node in block.replicas})
    check_copies(after, {node: cluster.store().store(node) for node in holders})
    old = {block.number: frozenset(block.replicas) for block in before.blocks}
    new = {node for block in after.blocks for node in block.replicas if node not in old[block.number]}
    for node in sorted(new):  # a node that holds a block reads its own copy
        read = functools.partial(_read, cluster.store(node), after)
        if checksum(read, after.length) != wanted:
            raise Corrupt(f"{after.name!r} read through {node} has other bytes", hint=look_at(after.name))


def _read(store: HydfsClient, stat: FileStat, offset: int, length: int) -> Buffer:
    return store.read(stat.name, offset, length, file_id=stat.file_id, timeout_s=READ_TIMEOUT_S)


def checksum(read: Callable[[int, int], Buffer], length: int) -> str:
    """Returns the checksum of the bytes that ``read`` returns for a file of this length."""
    digest = hashlib.sha256()
    for offset in range(0, length, READ_PIECE_BYTES):
        digest.update(read(offset, min(READ_PIECE_BYTES, length - offset)))
    return digest.hexdigest()


def summarize(rows: list[Row]) -> list[Row]:
    """Returns a line for each size of the file."""
    lines = []
    for megabytes in sorted({int(row["megabytes"]) for row in rows}):
        own = [row for row in rows if row["megabytes"] == megabytes]
        dead, first, restored, blocks, moved_bytes = (
            [float(row[name]) for row in own]
            for name in (
                "dead_after_s",
                "first_copy_after_s",
                "restored_after_s",
                "blocks_moved",
                "bytes_moved",
            )
        )
        repair = [end - begin for begin, end in zip(dead, restored, strict=True)]
        rates = [size / MEGABYTE / took for size, took in zip(moved_bytes, repair, strict=True)]
        lines.append(
            {
                "megabytes": megabytes,
                "nodes": own[0]["nodes"],
                "runs": len(own),
                "blocks": own[0]["blocks"],
                "blocks_moved_p50": harness.number(harness.median(blocks), 1),
                "mb_moved_p50": harness.number(harness.median(moved_bytes) / MEGABYTE, 1),
                "dead_p50_s": harness.number(harness.median(dead)),
                "dead_max_s": harness.number(max(dead)),
                "first_copy_p50_s": harness.number(harness.median(first)),
                "restored_p50_s": harness.number(harness.median(restored)),
                "restored_max_s": harness.number(max(restored)),
                "repair_p50_s": harness.number(harness.median(repair)),
                "repair_mb_per_s_p50": harness.number(harness.median(rates), 1),
            }
        )
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Draws every run and the medians of the three times by the size of the file."""
    from experiments import _plots as plots

    figure, axes = plots.figure(width_in=plots.TWO_COLUMNS_IN, height_in=2.6)
    sizes = sorted({int(row["megabytes"]) for row in rows})
    for place, (column, label) in enumerate(
        (
            ("restored_after_s", "three copies of every block"),
            ("first_copy_after_s", "first new copy"),
            ("dead_after_s", "down in the view"),
        )
    ):
        series: dict[float, list[float]] = {
            size: [float(row[column]) for row in rows if row["megabytes"] == size] for size in sizes
        }
        plots.medians_and_points(axes, series, label, place)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("Size of the file (MB)")
    axes.set_ylabel("Time since the node was killed (s)")
    axes.set_ylim(bottom=0)
    plots.legend(axes, columns=3)
    plots.save(figure, path)


EXPERIMENT = Experiment(
    "replication_time",
    "Time until every block of a file has three copies again after a node died.",
    measure,
    summarize,
    draw,
    add_options,
    quick={"megabytes": (1, 10), "runs": 2},
)

if __name__ == "__main__":
    sys.exit(harness.run(EXPERIMENT))
