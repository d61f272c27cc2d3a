"""The logs agent as a whole, with and without a collection, over its Unix socket and TLS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.config import LogsConfig, NodeConfig, PeerConfig, TlsConfig
from agent.common.shell import network
from agent.logs.client import LogsClient
from agent.logs.messages import CollectionStatus
from agent.logs.service import Service
from agent.wire import auth
from agent.wire.authority import Authority
from agent.wire.client import Address, Client
from tests.support import wait_until


class Node:
    """One node's logs agent."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "ca")
        authority.create("test")
        authority.issue("vm1", folder / "ca")
        tls = TlsConfig(*(str(folder / "ca" / name) for name in ("ca.pem", "vm1.pem", "vm1.key")))
        (folder / "logs").mkdir()
        (folder / "logs" / "a.log").write_text("one line\n")
        self.config = NodeConfig(
            cluster="test",
            name="vm1",
            data_dir=str(folder),
            tls=tls,
            gossip_key=str(folder / "gossip.key"),
            peers=(PeerConfig("vm1", "127.0.0.1", logs_port=0),),
            voters=("vm1",),
            introducers=("vm1",),
            logs=LogsConfig(collect_delay_s=0.0, collect_interval_s=0.02, journal_units=()),
        )
        self.client = Client(auth.client_context(tls))
        self.crashes: list[BaseException] = []

    @contextlib.contextmanager
    def running(self, *, collect: bool) -> Iterator[Service]:
        config = replace(self.config, logs=replace(self.config.logs, collect=collect))
        service = Service(config, self.crashes.append)
        service.start()
        try:
            yield service
        finally:
            service.stop(5.0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path)
    yield found
    found.client.close()
    assert found.crashes == []


def test_an_agent_answers_and_collects(node: Node) -> None:
    with node.running(collect=True) as service:
        agent = LogsClient(node.client, node.config.socket_path("logs"))
        assert [each.name for each in agent.list().files] == ["a.log"]
        wait_until(lambda: agent.collection().waiting_bytes, 10.0, "the line waits in the spool")
        wait_until(lambda: "UNREACHABLE" in service.status(), 10.0, "the missing store is named")
        assert "0 searches" in service.status()
        assert "bytes wait for HyDFS" in service.status()
        assert all(loop.makes_progress(5.0) for loop in service.loops())
        (listener,) = (each for each in service._server._listeners if not network.is_unix(each))
        port = listener.getsockname()[1]
        remote = LogsClient(node.client, Address("127.0.0.1", port, "vm1"))
        assert remote.collection().collects


def test_an_agent_that_does_not_collect_says_so(node: Node) -> None:
    with node.running(collect=False) as service:
        agent = LogsClient(node.client, node.config.socket_path("logs"))
        assert agent.collection() == CollectionStatus(False)
        assert (service.status(), service.loops()) == ("0 searches", [])
