"""Proposers and three real voters: nothing is lost, refusals come back, known values are not sent again."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import AlreadyExists, InvalidMessage, NoMajority
from agent.common.register import Check
from agent.wire.client import Client, Target
from agent.wire.register.proposer import Registers, anything
from agent.wire.register.store import write_log
from agent.wire.register.voter import Voter
from agent.wire.server import Server
from tests.support import wait_until


class Voters:
    """Three real voters on Unix sockets."""

    def __init__(self, folder: Path, check: Check = anything) -> None:
        self.client = Client(None)
        self.targets: dict[str, Target] = {f"v{index}": str(folder / f"v{index}.sock") for index in range(3)}
        self.registers = Registers("v", "view", self.client, self.targets)
        self.voters: list[Voter] = []
        self.servers: list[Server] = []
        for name, path in self.targets.items():
            (folder / name).mkdir()
            write_log(folder / name / "registers.log", {})
            voter = Voter(
                name,
                "view",
                folder / name,
                self.client,
                self.targets,
                self.registers,
                list,
                self._crashed,
                check=check,
            )
            server = Server(name, voter.endpoints())
            server.listen_unix(str(path))
            self.voters.append(voter)
            self.servers.append(server)

    @staticmethod
    def _crashed(error: BaseException) -> None:
        raise AssertionError("a voter crashed") from error

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        for voter in self.voters:
            voter.stop()
        self.registers.close()
        self.client.close()


@pytest.fixture
def voters() -> Iterator[Voters]:
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        found = Voters(Path(folder))
        yield found
        found.close()


def test_many_threads_change_one_register_and_nothing_is_lost(voters: Voters) -> None:
    client = Client(None)
    proposers = [Registers(f"p{index}", "view", client, voters.targets) for index in range(3)]

    def work(proposer: Registers, name: str) -> None:
        for number in range(10):
            mine = f"{name}.{number}"

            def change(value: Any, mine: str = mine) -> Any:
                ids = value or []
                return ids if mine in ids else [*ids, mine]

            assert mine in proposer.change("r", change, timeout_s=20.0)

    threads = [
        threading.Thread(target=work, args=(proposer, f"{index}.{turn}"))
        for index, proposer in enumerate(proposers)
        for turn in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    found = proposers[0].read("r")
    assert len(found) == len(set(found)) == 60
    assert proposers[0].keys("") == ["r"]
    for proposer in proposers:
        proposer.close()
    client.close()


def test_a_refusal_comes_back_and_without_a_majority_it_says_so(voters: Voters) -> None:
    client = Client(None)
    proposer = Registers("p", "view", client, voters.targets)

    def create(value: Any) -> Any:
        if value is not None:
            raise AlreadyExists("it exists")
        return "mine"

    assert proposer.change("r", create) == "mine"
    with pytest.raises(AlreadyExists):
        proposer.change("r", create)
    voters.servers[0].stop()
    assert proposer.read("r") == "mine"
    assert proposer.change("s", create) == "mine"
    voters.servers[1].stop()
    with pytest.raises(NoMajority):
        proposer.change("t", create, timeout_s=3.0)
    with pytest.raises(NoMajority):
        proposer.read("r", timeout_s=3.0)
    proposer.close()
    client.close()


def test_a_value_that_is_known_is_not_sent_again_and_a_newer_one_is(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(None)
    writer, reader = (Registers(name, "view", client, voters.targets) for name in ("p", "q"))
    sent: list[bool] = []
    call = Client.call

    def counting(*arguments: Any, **options: Any) -> Any:
        found = call(*arguments, **options)
        if arguments[2] == "view.read":
            sent.append(not found.fields["same"])
        return found

    monkeypatch.setattr(Client, "call", counting)
    for value in ("first", "second"):
        writer.change("r", lambda _, value=value: value)  # type: ignore[misc]
        assert [reader.read("r") for _ in range(3)] == [value] * 3
    wait_until(lambda: len(sent) == 18, 5.0, "all voters have answered")
    assert sent.count(True) <= 3 * 2 + 2, "of each value once from each voter, and answers that came late"
    reader.close()
    writer.close()
    client.close()


def test_a_voter_that_answers_with_a_value_that_is_refused_counts_as_failed(voters: Voters) -> None:
    """One of three may, and the others decide; with two there is no majority."""
    client = Client(None)
    anyone = Registers("p", "view", client, voters.targets)
    strict = Registers("q", "view", client, voters.targets, check=only_text)
    anyone.change("r", lambda _: "good")
    assert strict.read("r") == "good"
    anyone.change("r", lambda _: 7)
    with pytest.raises(NoMajority):
        strict.read("r", timeout_s=3.0)
    with pytest.raises(NoMajority):
        strict.change("r", lambda value: value, timeout_s=3.0)
    for proposer in (anyone, strict):
        proposer.close()
    client.close()


def only_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidMessage(f"register {key} holds text, found {value!r}")
