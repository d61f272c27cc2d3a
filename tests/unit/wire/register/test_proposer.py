"""Proposers and three real voters: nothing is lost, refusals come back, known values are not sent again."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import AlreadyExists, DeadlineExceeded, InvalidMessage, NoMajority, Overloaded
from agent.common.register import Accept, Check, Keys, Prepare, Read
from agent.common.register import Answer as RegisterAnswer
from agent.common.shell import network
from agent.common.shell.pool import Pool
from agent.wire.client import Client, Target
from agent.wire.codec.framing import HEADER_BYTES_MAX
from agent.wire.endpoint import endpoint
from agent.wire.register import proposer as proposing
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
    # One request after the other: otherwise the last one is no longer sent once a majority has answered.
    monkeypatch.setattr(Pool, "run", lambda self, work, *arguments: work(*arguments))
    client = Client(None)
    writer, reader = (Registers(name, "view", client, voters.targets) for name in ("p", "q"))
    sent: list[bool] = []
    ask = Client.ask

    def counting(*arguments: Any, **options: Any) -> Any:
        found = ask(*arguments, **options)
        if options["kind"] == "view.read":
            sent.append(not found.message.same)
        return found

    monkeypatch.setattr(Client, "ask", counting)
    for value in ("first", "second"):
        writer.change("r", lambda _, value=value: value)  # type: ignore[misc]
        assert [reader.read("r") for _ in range(3)] == [value] * 3
    assert sent == 2 * (3 * [True] + 6 * [False]), "each value comes once from each voter"
    reader.close()
    writer.close()
    client.close()


def only_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidMessage(f"register {key} holds text")


def test_a_voter_that_answers_with_an_invalid_value_counts_as_failed(voters: Voters) -> None:
    """Two voters hold a value that the register's subsystem refuses: there is no majority, and no change."""
    registers = Registers("p", "view", voters.client, voters.targets, check=only_text)
    assert registers.change("r", lambda _: "good") == "good"
    ask = partial(voters.client.ask, kind="view.accept", timeout_s=5.0)
    ask(voters.targets["v0"], Accept("r", (1 << 20, "x"), 5))
    assert registers.read("r") == "good", "one bad voter of three is outvoted"
    ask(voters.targets["v0"], Accept("s", (1 << 20, "x"), 5))
    ask(voters.targets["v1"], Accept("s", (1 << 20, "x"), 5))
    for operation in (registers.read, lambda key, timeout_s: registers.change(key, str, timeout_s=timeout_s)):
        with pytest.raises(NoMajority):
            operation("s", timeout_s=2.0)
    registers.close()


def test_a_refused_value_is_accepted_by_no_voter(tmp_path: Path) -> None:
    found = Voters(tmp_path, only_text)
    with contextlib.closing(found):
        with pytest.raises(NoMajority):
            found.registers.change("r", lambda _: 5, timeout_s=2.0)
        assert found.registers.read("r") is None


def test_a_voter_that_leaves_out_a_value_that_was_not_offered_counts_as_failed(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers = Registers("p", "view", voters.client, voters.targets)
    registers.change("r", lambda _: "good")
    for server in voters.servers[:2]:
        liar = endpoint(Read, lambda request, call: RegisterAnswer(True, (9, "x"), (9, "x"), same=True))
        server._endpoints["view.read"] = liar
    assert registers.read("r") == "good", "a round of the voters decides"
    registers.close()


def test_an_operation_without_a_free_place_for_its_requests_has_no_majority(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "PROPOSER_THREADS", 1)
    monkeypatch.setattr(proposing, "ASKS_MAX", 1)
    gate = threading.Event()
    registers = Registers("p", "view", voters.client, voters.targets)
    registers._pool.run(gate.wait, 5.0)
    wait_until(lambda: registers._pool.waiting == 0, 5.0, "the only thread is busy")
    with pytest.raises(NoMajority):
        registers.change("r", lambda _: "x", timeout_s=1.0)
    with pytest.raises(Overloaded):
        registers.keys(timeout_s=0.01)
    gate.set()
    registers.close()


def test_the_voter_of_this_node_is_asked_without_the_network(voters: Voters) -> None:
    for server in voters.servers[:2]:
        server.stop()
    registers = Registers("v0", "view", voters.client, voters.targets)
    with pytest.raises(NoMajority):
        registers.change("r", lambda _: 0, timeout_s=1.0)
    registers.ask_own(voters.voters[0].endpoints(), lambda: True)
    assert registers.change("r", lambda _: ["x"]) == ["x"], "v0 and v2 are a majority"
    assert registers.read("r") == ["x"]
    assert registers.keys() == ["r"]
    registers.close()


def test_nobody_shares_a_value_with_the_voter_of_this_node(voters: Voters) -> None:
    registers = Registers("v0", "view", voters.client, voters.targets)
    registers.ask_own(voters.voters[0].endpoints(), lambda: True)
    chosen = registers.change("r", lambda _: {"names": ("a",)})
    chosen["names"] = ()
    registers.change("r", lambda value: {"names": [*value["names"], "b"]})
    store = voters.voters[0]._opened()
    wait_until(lambda: store.slot("r").value == {"names": ["a", "b"]}, 5.0, "v0 has the newest value")
    registers.close()


def test_the_voter_of_this_node_accepts_nothing_that_the_others_cannot_be_told(voters: Voters) -> None:
    """Otherwise each later change would find the value, and could have it accepted by nobody else."""
    registers = Registers("v0", "view", voters.client, voters.targets)
    registers.ask_own(voters.voters[0].endpoints(), lambda: True)
    with pytest.raises(NoMajority):
        registers.change("r", lambda _: "x" * HEADER_BYTES_MAX, timeout_s=5.0)
    assert voters.voters[0]._opened().slot("r").value is None
    assert registers.change("r", lambda _: "y") == "y"
    registers.close()


def test_the_voter_of_this_node_holds_up_no_other_when_it_hangs(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "PROPOSER_THREADS", 2)
    gate = threading.Event()
    hanging = {
        f"view.{kind.kind}": endpoint(kind, lambda request, call: gate.wait(10.0)) for kind in (Prepare, Read)
    }
    registers = Registers("v0", "view", voters.client, voters.targets)
    registers.ask_own(hanging, lambda: False)
    for _ in range(proposing.OWN_THREADS + 3):
        registers.change("r", lambda value: (value or 0) + 1, timeout_s=5.0)
    assert registers.read("r", timeout_s=5.0) == proposing.OWN_THREADS + 3
    gate.set()
    registers.close()


def test_a_defect_of_the_voter_of_this_node_is_an_answer(voters: Voters) -> None:
    def fail(request: Any, call: Any) -> None:
        raise ZeroDivisionError

    registers = Registers("v0", "view", voters.client, voters.targets)
    registers.ask_own({"view.read": endpoint(Read, fail)}, lambda: True)
    voters.servers[1].stop()
    with pytest.raises(NoMajority, match="only 1 of the 3 voters answer"):
        registers.read("r", timeout_s=5.0)
    registers.close()


def test_names_are_those_of_a_majority(voters: Voters) -> None:
    for name in ("b", "a"):
        voters.registers.change(name, lambda _: 1)
    assert voters.registers.keys() == ["a", "b"]
    assert voters.registers.keys("b") == ["b"]
    voters.servers[0].stop()
    assert voters.registers.keys() == ["a", "b"]
    voters.servers[1].stop()
    with pytest.raises(NoMajority, match="only 1 of 3 voters"):
        voters.registers.keys()


def test_names_come_page_by_page_and_none_is_passed_over(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voters know different names: a page ends where some voter has not listed all of its names yet."""
    monkeypatch.setattr(proposing, "KEYS_MAX", 2)
    names = [f"{number:02d}" for number in range(11)]
    for number, name in enumerate(names):
        for voter in voters.voters[number % 2 :]:
            voter._opened().apply(Accept(name, (1, "p"), number))
    first = voters.registers.keys_page()
    assert (first.keys, first.more) == (("00", "01"), True)
    assert voters.registers.keys_page(after="09") == Keys(("10",), False)
    assert voters.registers.keys() == names


def test_an_operation_of_registers_that_are_closed_ends(voters: Voters) -> None:
    registers = Registers("p", "view", voters.client, voters.targets)
    registers.close()
    with pytest.raises(NoMajority):
        registers.read("r", timeout_s=1.0)


def test_silent_voters_cost_the_time_limit(tmp_path: Path) -> None:
    """They accept connections and send nothing."""
    listeners = [network.listen_unix(str(tmp_path / f"v{n}.sock"), 0o600) for n in range(3)]
    client = Client(None)
    registers = Registers("p", "view", client, {f"v{n}": str(tmp_path / f"v{n}.sock") for n in range(3)})
    with pytest.raises((NoMajority, DeadlineExceeded)):
        registers.change("r", lambda _: 1, timeout_s=0.2)
    client.close()
    registers.close()
    for listener in listeners:
        listener.close()


def test_only_the_registers_read_last_are_remembered(voters: Voters) -> None:
    registers = Registers("p", "view", voters.client, voters.targets)
    for number in range(proposing.KNOWN_MAX + 3):
        registers.change(f"r{number}", lambda _: 1)
        assert registers.read(f"r{number}") == 1
    assert len(registers._known) <= proposing.KNOWN_MAX
    registers.close()
