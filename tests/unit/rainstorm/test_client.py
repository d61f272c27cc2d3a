"""Who asks the stream engine outlives a change of leaders, however long the request took until then."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.common.errors import NotLeader
from agent.rainstorm import client as client_module
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.client import OneJob, Wait
from agent.wire.client import Client
from agent.wire.endpoint import Call, by_kind, endpoint
from agent.wire.server import Server
from tests.unit.rainstorm.statuses import job_status

LEADERLESS_S = 0.3


@pytest.mark.parametrize(("refusals", "outcome"), [(1, "finished"), (1000, "refused")])
def test_a_leader_lost_near_the_end_of_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, outcome: str
) -> None:
    monkeypatch.setattr(client_module, "LEADERLESS_S", LEADERLESS_S)
    asked = 0

    def wait(request: Wait, call: Call) -> OneJob:
        nonlocal asked
        asked += 1
        if asked == 1:
            threading.Event().wait(2 * LEADERLESS_S)  # the job goes on; then the lead is lost
        if asked <= refusals:
            raise NotLeader("n1 does not lead")
        return OneJob(job_status(state="finished"))

    server, client = Server("test", by_kind(endpoint(Wait, wait))), Client(None)
    server.listen_unix(str(tmp_path / "run" / "test.sock"))
    try:
        jobs = RainstormClient(client, [str(tmp_path / "run" / "test.sock")])
        found = jobs.wait("j-1", 10.0).state
    except NotLeader:
        found = "refused"
    finally:
        client.close()
        server.stop()
    assert found == outcome
