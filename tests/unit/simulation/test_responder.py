"""Models that answer the requests of real clients."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from agent.common.errors import ConnectionLost, DeadlineExceeded, NotFound, ProtocolError, RainStormError
from agent.hydfs.client import HydfsClient
from agent.hydfs.messages.file import Delete, Part, Read
from agent.wire.client import Client
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.responder import Asked, Responder

PATH = "/run/model.sock"
ID = "0" * 32


@pytest.fixture
def cluster(seed: int) -> Cluster:
    """One machine without agents."""
    return Cluster(seed, 1, {})


def model(cluster: Cluster, **handlers: Any) -> Responder:
    """Returns a responder of the machine, which handles requests with ``read`` and ``delete``."""
    kinds = {"read": Read.kind, "delete": Delete.kind}
    made = Responder(
        cluster.wires,
        cluster.nodes["vm1"].address,
        {kinds[name]: handler for name, handler in handlers.items()},
    )
    made.listen(PATH)
    return made


def ask(name: str, *arguments: Any) -> Any:
    """Makes a call with a separate client."""
    client = Client(None)
    try:
        return getattr(HydfsClient(client, PATH), name)(*arguments, timeout_s=2.0)
    finally:
        client.close()


def test_a_model_answers_with_messages_and_bytes(cluster: Cluster) -> None:
    """It may take its time."""

    def read(asked: Asked) -> None:
        wanted = asked.decode(Read)
        answer = partial(asked.answer, Part(False, ID), b"x" * wanted.length)
        cluster.scheduler.after(0.5, answer)

    with cluster:
        model(cluster, read=read)
        process = cluster.client("client", on="vm1")
        began = cluster.scheduler.now
        assert cluster.call(process, ask, "read", "a", 0, 100_000) == b"x" * 100_000
        assert cluster.scheduler.now - began >= 0.5


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (lambda asked: asked.refuse(NotFound("gone")), NotFound),
        (lambda asked: asked.hang_up(), ConnectionLost),
        (lambda asked: None, DeadlineExceeded),
    ],
)
def test_a_model_refuses_hangs_up_or_says_nothing(
    cluster: Cluster, handler: Any, error: type[RainStormError]
) -> None:
    """To clients it looks like a real server."""
    with cluster:
        model(cluster, delete=handler)
        with pytest.raises(error):
            cluster.call(cluster.client("client", on="vm1"), ask, "delete", "a")


def test_a_request_that_no_model_knows_is_refused(cluster: Cluster) -> None:
    """Otherwise a test would wait for an answer that never comes."""
    with cluster:
        model(cluster)
        with pytest.raises(ProtocolError, match="does not know"):
            cluster.call(cluster.client("client", on="vm1"), ask, "delete", "a")


def test_a_model_that_goes_away_ends_its_connections(cluster: Cluster) -> None:
    """Later callers are refused, and the model knows which callers have left."""
    asked_for: list[Asked] = []
    with cluster:
        responder = model(cluster, delete=asked_for.append)
        process = cluster.client("client", on="vm1")
        cluster.scheduler.after(0.5, responder.close)
        with pytest.raises(ConnectionLost):
            cluster.call(process, ask, "delete", "a")
        assert not asked_for[0].is_alive
        asked_for[0].answer({})  # the caller has gone
        with pytest.raises(RainStormError):
            cluster.call(process, ask, "delete", "a")
