"""A store agent as a whole: it starts, serves, and leaves nothing behind."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.errors import AlreadyRunning, InvalidMessage, RainStormError, Unreachable
from agent.common.shell import clock
from agent.hydfs.messages.file import BeginPut, Create, PutPiece
from agent.hydfs.service import Service
from agent.hydfs.shell import put
from agent.hydfs.shell.transfers import incoming
from tests.support import wait_until
from tests.unit.hydfs.stores import SettableView, Stores


def test_a_file_is_put_read_appended_listed_and_deleted(tmp_path: Path) -> None:
    with Stores(tmp_path) as stores:
        stores.start()
        data = bytes(range(256)) * 1000
        assert stores.hydfs("n1").put("a/one", io.BytesIO(data)).length == len(data)
        sink = io.BytesIO()
        assert stores.hydfs("n2").get("a/one", sink) == len(data)
        assert sink.getvalue() == data
        stores.hydfs("n3").create("a/two")
        first = stores.hydfs("n3").append("a/two", b"hello", writer="w", sequence=0)
        again = stores.hydfs("n1").append("a/two", b"hello", writer="w", sequence=0)
        assert (first.offset, first.copies, again.offset, again.duplicate) == (0, 3, 0, True)
        assert [stat.name for stat in stores.hydfs("n2").list("a/")] == ["a/one", "a/two"]
        assert stores.hydfs("n2").delete_prefix("a/") == 2
        assert stores.hydfs("n1").list() == []


def test_what_was_acknowledged_is_there_after_a_restart_of_all(tmp_path: Path) -> None:
    with Stores(tmp_path) as stores:
        stores.start()
        stores.settle()
        stores.hydfs().create("f")
        for number in range(5):
            stores.hydfs().append("f", b"%d" % number, writer="w", sequence=number)
        service = stores.services["n1"]
        assert "open=1" in service.status()
        assert [loop.makes_progress(5.0) for loop in service.loops()] == [True]
        stores.stop()
        stores.start()
        assert bytes(stores.hydfs("n2").read("f", 0, 99)) == b"01234"
        done = stores.hydfs("n2").append("f", b"5", writer="w", sequence=5, timeout_s=20.0)
        assert done.offset == 5
        again = stores.hydfs("n3").append("f", b"4", writer="w", sequence=4)
        assert again.duplicate


def test_a_second_agent_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Stores(tmp_path, 1) as stores:
        stores.start()
        with pytest.raises(AlreadyRunning, match="a store agent of n1 already uses"):
            Service(stores.config("n1"), stores.crashes.append, SettableView(["n1"]))


def test_an_agent_that_was_not_started_stops(tmp_path: Path) -> None:
    with Stores(tmp_path, 1) as stores:
        service = Service(stores.config("n1"), stores.crashes.append, SettableView(["n1"]))
        assert service.loops() == []
        assert service.status() == "empty, does not vote yet"
        service.stop()


def test_without_a_membership_agent_the_configured_nodes_are_the_view(tmp_path: Path) -> None:
    """It follows membership once the agent answers; a node that does not vote has no voter."""
    with Stores(tmp_path, 2) as stores:
        stores.start("n1")
        config = replace(stores.config("n2"), voters=("n1",))
        service = Service(config, stores.crashes.append)
        service.start()
        try:
            assert service.views.current().up_names() == ["n1", "n2"]
            assert "does not vote" not in service.status()
        finally:
            service.stop()


def test_what_clients_left_behind_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stores(tmp_path, 1) as stores:
        stores.start()
        service = stores.services["n1"]
        puts = service._puts
        assert puts is not None
        assert service._repair is not None
        wait_until(lambda: service._voter is not None and service._voter.votes, 10.0, "it votes")
        stores.hydfs().put("f", io.BytesIO(os.urandom(10)))
        client = stores.hydfs()
        begun = client._ask(BeginPut("g"), timeout_s=5.0).message
        client._ask(PutPiece(begun.file_id, 0), b"x", timeout_s=5.0)
        assert puts.is_alive(begun.file_id)
        monkeypatch.setattr(put, "IDLE_S_MAX", -1.0)
        monkeypatch.setattr(incoming, "IDLE_S_MAX", -1.0)
        service._repair._pass_at = clock.monotonic()
        service._repair.look_at("f")
        wait_until(lambda: not puts._puts, 10.0, "the put was aborted")
        assert puts.free_slots == put.BUFFERED_BLOCKS


def test_invalid_requests_are_refused_and_counted(tmp_path: Path) -> None:
    with Stores(tmp_path, 1) as stores:
        stores.start()
        client = stores.hydfs()
        for _ in range(3):
            with pytest.raises(InvalidMessage, match=r"hydfs\.create"):
                client._client.ask(client._target, Create("x" * 70_000), timeout_s=5.0)
        assert stores.services["n1"]._server.refused["hydfs.create"] == 3


def test_a_node_that_does_not_listen_cannot_be_reached(tmp_path: Path) -> None:
    with Stores(tmp_path, 1) as stores, pytest.raises(Unreachable):
        stores.hydfs().list()


def test_a_value_that_is_no_file_entry_is_never_voted_for(tmp_path: Path) -> None:
    """In an earlier release such a value made every later listing fail."""
    with Stores(tmp_path) as stores:
        stores.start()
        stores.hydfs().create("f")
        with pytest.raises(RainStormError):
            stores.services["n1"]._registers.change("g", lambda value: "a text", timeout_s=1.0)
        with pytest.raises(RainStormError):
            stores.services["n1"]._registers.change("f", lambda value: {"file_id": "../x"}, timeout_s=1.0)
        assert [stat.name for stat in stores.hydfs().list()] == ["f"]
        assert stores.hydfs().create("g").length == 0
