"""A client of the stream engine survives a change of leaders, however long its request has already taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import ConnectionLost, DeadlineExceeded, NotLeader, RainStormError, Unreachable
from agent.rainstorm import client as client_module
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.client import JobList, OneJob, Submitted, Wait
from agent.wire.client import Answered, Client
from agent.wire.endpoint import Call, by_kind, endpoint
from agent.wire.server import Server
from tests.unit.rainstorm.statuses import job_status


class Time:
    """The clock of the client, which goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("refusals", "outcome"), [(1, "finished"), (1000, "refused")])
def test_a_leader_lost_near_the_end_of_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, outcome: str
) -> None:
    """It asks the next leader; without one it fails after a while."""
    time = Time()
    monkeypatch.setattr(client_module, "clock", time)
    asked = 0

    def wait(request: Wait, call: Call) -> OneJob:
        nonlocal asked
        asked += 1
        # The job continues for long; then leadership is lost.
        time.now += 2 * client_module.LEADERLESS_S if asked == 1 else 1.0
        if asked <= refusals:
            raise NotLeader("n1 does not lead")
        return OneJob(job_status(state="finished"))

    server, client = Server("test", by_kind(endpoint(Wait, wait))), Client(None)
    server.listen_unix(str(tmp_path / "run" / "test.sock"))
    try:
        jobs = RainstormClient(client, [str(tmp_path / "run" / "test.sock")])
        found = jobs.wait("j-1", 1000.0).state
    except NotLeader:
        found = "refused"
    finally:
        client.close()
        server.stop()
    assert found == outcome
    assert asked > 1


class Targets:
    """A wire client whose nodes give preset answers."""

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes = outcomes
        self.asked: list[str] = []

    def ask(self, target: str, request: Any, *, timeout_s: float) -> Any:
        self.asked.append(target)
        outcome = self.outcomes[target]
        if isinstance(outcome, Exception):
            raise outcome
        return Answered(outcome, b"")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_S", 0.001)


def test_the_next_node_is_asked_and_remembered() -> None:
    """A node that is down is asked last from then on."""
    wire = Targets(a=Unreachable("down"), b=JobList((job_status(),)))
    client = RainstormClient(cast("Client", wire), ["a", "b"])
    assert [job.job for job in client.jobs()] == ["j-1"]
    assert client.tasks() == []
    assert wire.asked == ["a", "b", "b"]


@pytest.mark.parametrize("error", [ConnectionLost("broke"), DeadlineExceeded("late")])
def test_what_must_happen_once_is_not_asked_again(error: RainStormError) -> None:
    """The outcome is unknown; only a query may be repeated."""
    wire = Targets(a=error, b=Submitted("j-1"))
    client = RainstormClient(cast("Client", wire), ["a", "b"])
    with pytest.raises(type(error)):
        client.submit({})
    assert wire.asked == ["a"]
    wire.outcomes["b"] = JobList(())
    assert client.jobs() == []


def test_a_client_without_nodes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so after the time that a cluster may be without a leader."""
    monkeypatch.setattr(client_module, "LEADERLESS_S", 0.01)
    with pytest.raises(Unreachable, match="no node of the cluster is known"):
        RainstormClient(cast("Client", Targets()), []).jobs()
