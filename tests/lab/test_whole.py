"""One cluster's life on real VMs, step by step: deployed, broken, upgraded, rolled back, reset, gone.

The steps share one lab and follow each other; after a failed step the rest is skipped.
``RAINSTORM_TEST_VMS=10`` chooses the number of VMs, ``-s`` shows the measurements.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.common.errors import AlreadyExists, RainStormError
from ops.cluster.connections import Connections, connected
from ops.cluster.inventory import REPOSITORY, load
from ops.demo import samples
from ops.deploy import wheelhouse
from tests.lab.deployment import Deployment
from tests.lab.load import AppendLoad, JobLoad, assert_result, finished
from tests.lab.sandbox import LabSandbox, network_traces, why_not
from tests.support import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]

VMS = int(os.environ.get("RAINSTORM_TEST_VMS", "5"))
NAMES = [f"vm{number}" for number in range(1, VMS + 1)]
UNCHANGED = dict.fromkeys(NAMES, 0)
ROWS = 200_000
INPUT = "input/city-signs.csv"
DEBIAN_12 = wheelhouse.Target("3.11", os.uname().machine, "2.36")
# The length of a job that is disturbed while it runs.
JOB_S = 20
# Jobs under a rolling upgrade: long enough that several VMs are restarted under each.
UPGRADE_JOB_S = 6 * VMS
SETTLE_S = "120"
JOB_TIMEOUT_S = 180.0
RECORD = b"one\n"


class Story:
    """The lab, its cluster, and the state that one step leaves for the next."""

    def __init__(self, folder: Path, failed_before: int) -> None:
        self.failed_before = failed_before
        self.lab = LabSandbox(f"whole-{os.getpid()}")
        self.cluster = Deployment(self.lab)
        self.folder = folder
        self.subnet = 0
        self.first_release = ""
        self.next_release = ""
        self._begun = time.monotonic()

    @property
    def inventory(self) -> Path:
        """Returns the path of the lab's inventory."""
        return self.lab.lab.inventory_path

    def connected(self) -> AbstractContextManager[Connections]:
        """Connects to the cluster as an operator's program does."""
        return connected(load(self.inventory))

    def say(self, message: str) -> None:
        """Prints a measurement, with the load of the machine, which explains much of it."""
        now, busy = time.monotonic(), os.getloadavg()[0]
        print(f"\n  [{now - self._begun:6.1f} s, load {busy:.0f}] {message}", flush=True)

    def measured(self, what: str, playbook: str, *options: str) -> dict[str, int]:
        """Runs a playbook, which must succeed, and returns the number of changes on each VM."""
        begun = time.monotonic()
        changed = self.cluster.done(playbook, *options)
        self.say(f"{what}: {time.monotonic() - begun:.1f} s, changed {sum(changed.values())}")
        return changed

    def settled(self) -> None:
        """Waits until all nodes are alive and every block has its copies."""
        ended = self.cluster.fab("verify", "--wait", SETTLE_S)
        assert ended.status == 0, ended.err

    def releases(self) -> set[str]:
        """Returns the releases that are in use."""
        return {
            self.cluster.root(name, "basename $(readlink /opt/rainstorm/current)").strip() for name in NAMES
        }

    def input(self) -> Path:
        """Returns the jobs' input as a local file."""
        return samples.input_file(self.folder, ROWS, samples.SEED)

    def job(self, seconds: float) -> dict[str, Any]:
        """Returns a job on the input that lasts ``seconds``, with enough tasks for every VM to have one."""
        job = samples.load_job(samples.SAMPLE_JOB)
        job["source"].update(file=INPUT, rate=int(ROWS / seconds))
        job["sink"]["file"] = "results/{job}.csv"
        for stage in job["stages"]:
            stage["tasks"] = VMS // 2 + 1
        return job


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The lab, up and bare; it is removed at the end, whatever happens."""
    if reason := why_not():
        pytest.skip(reason)
    story = Story(tmp_path_factory.mktemp("whole"), request.session.testsfailed)
    try:
        ended = story.lab.fab("lab.up", "--vms", str(VMS))
        assert ended.status == 0, ended.err
        story.say(f"{VMS} VMs are up and bare")
        story.subnet = story.lab.lab.plan().subnet
        yield story
    finally:
        story.lab.fab("lab.down")
        if story.next_release:
            shutil.rmtree(wheelhouse.FOLDER / story.next_release, ignore_errors=True)


@pytest.fixture
def story(whole: Story, request: pytest.FixtureRequest) -> Story:
    """The lab as the previous steps left it."""
    if request.session.testsfailed > whole.failed_before:
        pytest.skip("an earlier step failed")
    return whole


def test_deployed_on_bare_vms(story: Story) -> None:
    changed = story.measured("deploy", "deploy.yml")
    assert min(changed.values()) > 0
    assert sorted(changed) == sorted(NAMES)
    story.settled()
    story.measured("verify", "playbooks/verify.yml")
    (story.first_release,) = story.releases()


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert story.measured("second run", "deploy.yml") == UNCHANGED


def test_a_job_survives_the_kill_of_one_of_its_tasks(story: Story) -> None:
    sample = story.cluster.fab("submit-job")
    assert sample.status == 0, sample.err
    story.say("the sample job is finished")
    stored = story.cluster.fab("put", str(story.input()), INPUT)
    assert stored.status == 0, stored.err
    job = story.job(JOB_S)
    path = story.folder / "job.yml"
    path.write_text(yaml.safe_dump(job))
    submitted = story.cluster.fab("submit-job", "--job", str(path), "--detach")
    assert submitted.status == 0, submitted.err
    with story.connected() as connections:
        client = connections.rainstorm()
        (name,) = [each.job for each in client.jobs() if each.job in submitted.out]
        wait_until(lambda: client.job(name).lines_read > ROWS // 4, 60, "a quarter of the input is read")
        killed = story.cluster.fab("kill-task", "--vm", "3", "--job", name)
        assert killed.status == 0, killed.err
        ended = finished(connections, name, JOB_TIMEOUT_S)
        assert ended.recoveries, "the job did not notice"
        assert_result(connections, ended, job, story.input())
    story.say(f"job with a killed task: {ended.elapsed_s:.1f} s, equal to the reference program's result")


def test_a_power_failure_is_seen_and_survived(story: Story) -> None:
    victim = NAMES[-1]
    assert story.cluster.fab("fault.crash", "--vm", victim).status == 0
    unsettled = story.cluster.fab("verify")
    assert (unsettled.status, victim in unsettled.err) == (4, True), unsettled
    partial = story.cluster.fab("grep", "ready service=membership", "-c")
    assert (partial.status, victim in partial.out + partial.err) == (4, True), partial
    assert story.cluster.fab("fault.start", "--vm", victim).status == 0
    begun = time.monotonic()
    story.settled()
    story.say(f"settled {time.monotonic() - begun:.1f} s after {victim} was started again")
    back = story.folder / "back"
    assert story.cluster.fab("get", INPUT, str(back)).status == 0
    assert back.read_bytes() == story.input().read_bytes()


def test_a_partition_stops_the_minority_and_heals(story: Story) -> None:
    """The side with a majority of the voters continues; the other side refuses instead of deciding alone."""
    away, majority = NAMES[:2], NAMES[2:]
    assert story.cluster.fab("fault.partition", "--vms", ",".join(away)).status == 0
    with story.connected() as connections:
        wait_until(lambda: _wrote(connections, majority[0], "partition/majority"), 60, "the majority works")
        assert not _wrote(connections, away[0], "partition/minority")
    assert story.cluster.fab("fault.heal").status == 0
    begun = time.monotonic()
    story.settled()
    story.say(f"settled {time.monotonic() - begun:.1f} s after the partition healed")
    with story.connected() as connections:
        assert connections.hydfs(away[0]).stat("partition/majority").length == len(RECORD)


def test_a_rolling_upgrade_under_load_loses_nothing(story: Story) -> None:
    checkout = story.folder / "checkout"
    for path in wheelhouse.sources():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, checkout / path)
    with (checkout / "agent" / "__init__.py").open("a") as file:
        file.write(f"# the release after {story.first_release}\n")
    story.next_release = wheelhouse.build(DEBIAN_12, checkout).parent.name
    job = story.job(UPGRADE_JOB_S)
    with (
        AppendLoad(story.inventory, "load/records") as appends,
        JobLoad(story.inventory, job, story.input()) as jobs,
    ):
        wait_until(lambda: appends.sent > 10 and jobs.running, 120, "records are appended, a job runs")
        story.measured(
            "rolling upgrade", "playbooks/upgrade.yml", "-e", f"rainstorm_release={story.next_release}"
        )
    assert story.releases() == {story.next_release}
    with story.connected() as connections:
        lost, duplicate = appends.lost_and_duplicate(connections)
    recoveries = [len(ended.recoveries) for ended in jobs.ended]
    story.say(
        f"{appends.sent} records, {lost} lost, {duplicate} duplicate, {appends.tried_again} tried again, "
        f"longest wait {appends.longest_s:.1f} s; {len(jobs.ended)} jobs, results equal, "
        f"recoveries {recoveries}"
    )
    assert (lost, duplicate) == (0, 0)
    assert sum(recoveries) > 0, "no job noticed that its machines were restarted"


def test_the_way_back(story: Story) -> None:
    story.measured("rollback", "playbooks/rollback.yml")
    assert story.releases() == {story.first_release}
    story.settled()


def test_all_logs_are_searched(story: Story) -> None:
    found = story.cluster.fab("grep", "ready service=membership", "-c")
    assert found.status == 0, found.err
    for name in NAMES:
        assert name in found.out + found.err


def test_a_bundle_of_each_vm(story: Story) -> None:
    story.cluster.done("playbooks/collect.yml")
    bundles = sorted((story.cluster.secrets / "bundles").glob("*/*.tar.gz"))
    assert sorted(path.name.removesuffix(".tar.gz") for path in bundles) == sorted(NAMES)


def test_reset_and_nothing_is_left(story: Story) -> None:
    story.measured("reset", "playbooks/reset.yml", "-e", f"confirm={story.lab.lab.name}")
    left = "ls -d /opt/rainstorm /etc/rainstorm /run/rainstorm /var/log/rainstorm /etc/systemd/system/rain*"
    for name in NAMES:
        assert story.lab.ssh(name, f"{left} 2>/dev/null; getent passwd rainstorm rainstorm-task").out == ""
    down = story.lab.fab("lab.down")
    assert down.status == 0, down.err
    assert story.lab.traces() + network_traces(story.subnet) == []
    assert not story.cluster.secrets.exists()


def _wrote(connections: Connections, node: str, name: str) -> bool:
    try:
        store = connections.hydfs(node)
        with contextlib.suppress(AlreadyExists):
            store.create(name, timeout_s=5.0)
        store.append(name, RECORD, writer="partition", sequence=1, timeout_s=5.0)
    except (RainStormError, OSError):
        return False
    return True
