"""The summaries that experiments make from their samples: counts of deaths, medians, tables, figures."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.common.errors import ConfigError, UsageError
from experiments import _harness as harness
from experiments import detection_time, false_positives, isolation, membership_bandwidth, replication_time
from experiments._cluster import Seen, false_deaths
from experiments._harness import Experiment, Recorder, Row
from experiments._variants import VARIANTS, settings_of, variant_named
from tests.support import REPOSITORY


def see(*lines: str) -> list[Seen]:
    """Returns observations, given as one ``observer kind name`` per line."""
    words = [line.split() for line in lines]
    return [Seen(float(at), observer, kind, name, "") for at, (observer, kind, name) in enumerate(words)]


def test_one_death_is_counted_once_however_many_observers_learn_of_it() -> None:
    seen = see("a dead x", "b dead x", "a dead x", "c dead x")
    assert false_deaths(seen) == (1, 3)


def test_a_node_dies_again_only_after_everybody_held_it_for_alive() -> None:
    assert false_deaths(see("a dead x", "b dead x", "a join x", "a dead x")) == (1, 3)
    assert false_deaths(see("a dead x", "a join x", "b suspect x", "b refute x", "b dead x")) == (2, 2)


def test_deaths_of_guilty_nodes_are_true() -> None:
    seen = see("a dead x", "a dead y", "y dead b")
    assert false_deaths(seen, ["x"]) == (2, 2)
    assert false_deaths(seen, ["x", "y"]) == (1, 1), "a faulty node's beliefs about others count"


def test_a_victim_is_out_when_the_last_healthy_view_lacks_it_and_each_return_counts() -> None:
    seen = [
        Seen(float(at), observer, "view", up, "")
        for at, (observer, up) in enumerate(
            [("a", "a b"), ("b", "a b x"), ("b", "a b"), ("b", "a b x"), ("b", "a b"), ("a", "a b x")]
        )
    ]
    assert isolation._all_out_at(seen, ["a", "b"], ["x"]) == 2.0
    assert isolation._all_out_at(seen, ["a", "b", "c"], ["x"]) == float("inf"), "c has seen no such view"
    assert isolation._returns(seen, ["x"]) == 1


def test_faults_in_one_direction_lose_that_direction() -> None:
    assert isolation.paths_of("loss-in", ["x"], ["a"]) == [("a", "x")]
    assert isolation.paths_of("cut-out", ["x"], ["a"]) == [("x", "a")]
    assert isolation.paths_of("partition", ["x"], ["a"]) == [("a", "x"), ("x", "a")]


def test_percentiles_are_values_that_occurred() -> None:
    assert harness.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert harness.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert harness.percentile([1.0], 0.99) == 1.0
    assert harness.number(harness.percentile([1.0, float("inf")], 0.99)) is None


def test_variants_and_knobs_by_name() -> None:
    assert [variant_named(str(variant)) for variant in VARIANTS] == list(VARIANTS)
    with pytest.raises(UsageError, match="no variant 'swimm'"):
        variant_named("swimm")
    options = argparse.Namespace(settings=["probe_interval_s=0.5", "detector = heartbeat"])
    assert settings_of(options) == {"probe_interval_s": 0.5, "detector": "heartbeat"}


def detection_rows() -> list[Row]:
    """Returns two runs of one variant: all dead after 0.9 s, and one victim that was never noticed."""
    times = {0: [0.5, 0.9], 1: [0.7, float("inf")]}
    return [
        {
            "detector": "swim",
            "suspicion": True,
            "nodes": 3,
            "failures": 1,
            "run": run,
            "victim": "vm1",
            "observer": f"vm{index + 2}",
            "dead_after_s": value,
            "false_deaths": run,
        }
        for run, values in times.items()
        for index, value in enumerate(values)
    ]


def test_detection_counts_until_the_last_list() -> None:
    rows = [row for row in detection_rows() if row["run"] == 0]
    assert detection_time.summarize(rows) == [
        {
            "detector": "swim",
            "suspicion": True,
            "failures": 1,
            "runs": 1,
            "p50_s": 0.9,
            "p99_s": 0.9,
            "false_deaths": 0,
        }
    ]
    (line,) = detection_time.summarize(detection_rows())
    assert (line["p50_s"], line["p99_s"], line["false_deaths"]) == (None, None, 1), "never is not a number"


def write(folder: Path, rows: list[Row]) -> None:
    """Writes the samples as a run does."""
    with Recorder(folder, {"experiment": "test"}) as recorder:
        for row in rows:
            recorder.add(**row)


def interrupted(folder: Path) -> None:
    """Writes one sample and is interrupted."""
    with Recorder(folder, {}) as recorder:
        recorder.add(value=1)
        raise KeyboardInterrupt


def test_samples_survive_the_file_and_the_meta_data_say_how_it_ended(tmp_path: Path) -> None:
    write(tmp_path / "run", detection_rows())
    assert harness.read_rows(tmp_path / "run" / "data.csv") == detection_rows()
    meta = json.loads((tmp_path / "run" / "meta.json").read_text("utf-8"))
    assert meta["complete"] is True
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "cut")
    assert harness.read_rows(tmp_path / "cut" / "data.csv") == [{"value": 1}]
    assert json.loads((tmp_path / "cut" / "meta.json").read_text("utf-8"))["complete"] is False
    with pytest.raises(ConfigError, match="no samples"):
        harness.read_rows(tmp_path / "nothing.csv")


def loss_rows() -> list[Row]:
    """Returns the samples of one variant at two rates of loss."""
    return [
        {
            "detector": "heartbeat",
            "suspicion": False,
            "loss_percent": loss,
            "run": run,
            "duration_s": 30.0,
            "false_deaths": false,
            "false_reports": false,
            "false_reports_by_unwell": 1,
            "starved_deaths": 0,
            "pauses": 2,
            "pauses_noticed": 2,
            "lost_events": 0,
        }
        for loss, run, false in ((0.0, 0, 0), (0.0, 1, 0), (40.0, 0, 4), (40.0, 1, 2))
    ]


def test_false_deaths_are_reported_as_a_sum_and_a_rate() -> None:
    quiet, lossy = false_positives.summarize(loss_rows())
    assert quiet["false_deaths"] == quiet["false_deaths_per_10_min"] == 0
    assert (lossy["false_deaths"], lossy["false_deaths_p50"], lossy["minutes"]) == (6, 3, 1.0)
    assert lossy["false_deaths_per_10_min"] == 60.0
    assert (lossy["false_reports"], lossy["false_reports_by_unwell"]) == (6, 2)


def traffic_rows() -> list[Row]:
    """Returns the samples of two real nodes and of a simulated group."""
    real = {"kind": "real", "detector": "swim", "suspicion": True, "nodes": 2, "run": 0}
    costs = {"loopback_bytes_per_s": 500.0, "processor_percent": 0.5, "memory_mib": 30.0}
    return [
        {**real, "node": "vm1", "bytes_per_s": 100.0, "payload_bytes_per_s": 90.0, **costs},
        {**real, "node": "vm2", "bytes_per_s": 300.0, "payload_bytes_per_s": 290.0, **costs},
        {
            **real,
            "kind": "simulated",
            "nodes": 100,
            "node": "mean",
            "bytes_per_s": 50.0,
            "payload_bytes_per_s": "",
            **dict.fromkeys(costs, ""),
        },
    ]


def test_traffic_is_the_mean_of_a_run_and_its_busiest_node() -> None:
    real, simulated = membership_bandwidth.summarize(traffic_rows())
    assert (real["bytes_per_s_p50"], real["bytes_per_s_max"], real["memory_mib_max"]) == (200.0, 300.0, 30.0)
    assert (simulated["bytes_per_s_p50"], simulated["processor_percent_p50"]) == (50.0, None)


def replication_rows() -> list[Row]:
    """Returns the samples of two sizes; those of the larger one come first."""
    columns = {
        "victim": "vm2",
        "nodes": 5,
        "crash_command_s": 0.05,
        "longest_gap_s": 0.06,
        "failed_looks": 0,
        "settled_after_start_s": 3.0,
    }
    times = [(20, 0, 3, 20, 0.5, 3.5, 4.5), (1, 0, 1, 1, 0.6, 3.6, 3.6), (20, 1, 2, 10, 0.7, 3.7, 5.7)]
    return [
        {
            "megabytes": megabytes,
            "run": run,
            "blocks": 3 if megabytes == 20 else 1,
            "blocks_moved": blocks,
            "bytes_moved": mb * 1_000_000,
            "dead_after_s": dead,
            "first_copy_after_s": first,
            "restored_after_s": restored,
            **columns,
        }
        for megabytes, run, blocks, mb, dead, first, restored in times
    ]


def test_replication_shows_detection_and_repair_apart() -> None:
    small, large = replication_time.summarize(replication_rows())
    assert (small["megabytes"], small["runs"], small["repair_p50_s"]) == (1, 1, 3.0)
    assert large == {
        "megabytes": 20,
        "nodes": 5,
        "runs": 2,
        "blocks": 3,
        "blocks_moved_p50": 2.5,
        "mb_moved_p50": 15.0,
        "dead_p50_s": 0.6,
        "dead_max_s": 0.7,
        "first_copy_p50_s": 3.6,
        "restored_p50_s": 5.1,
        "restored_max_s": 5.7,
        "repair_p50_s": 4.5,
        "repair_mb_per_s_p50": 3.5,
    }


# In separate processes, because the drawing library keeps its font files open. Too slow for make check.
@pytest.mark.integration
@pytest.mark.parametrize(
    ("experiment", "rows"),
    [
        (detection_time.EXPERIMENT, detection_rows()[:2]),
        (false_positives.EXPERIMENT, loss_rows()),
        (membership_bandwidth.EXPERIMENT, traffic_rows()),
        (replication_time.EXPERIMENT, replication_rows()),
    ],
    ids=["detection_time", "false_positives", "membership_bandwidth", "replication_time"],
)
def test_figures_come_from_the_file(experiment: Experiment, rows: list[Row], tmp_path: Path) -> None:
    write(tmp_path, rows)
    first = drawn(experiment, tmp_path, tmp_path / "first.svg")
    assert first.startswith(b"<?xml")
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")
    if experiment is detection_time.EXPERIMENT:
        assert drawn(experiment, tmp_path, tmp_path / "second.svg") == first, (
            "the same samples, the same bytes"
        )


def drawn(experiment: Experiment, folder: Path, figure: Path) -> bytes:
    """Draws the run in ``folder`` again, checks the summary on the way, and returns the figure."""
    program = [sys.executable, f"experiments/{experiment.name}.py", "--plot-only", "--json"]
    done = subprocess.run(
        [*program, "--out", str(folder), "--figure", str(figure)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = harness.read_rows(folder / "data.csv")
    assert json.loads(done.stdout) == {"variants": experiment.summarize(rows)}
    return figure.read_bytes()
