"""Five real voters on Unix sockets: they found a cluster, lose a disk, and vote only after learning."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import Corrupt, DiskFailed, InvalidMessage, NoMajority
from agent.common.register import Check, Prepare, Slot
from agent.common.shell import clock, disk
from agent.common.votermemory import Standing, Verdict, judge
from agent.wire.client import Client, Target
from agent.wire.endpoint import Call
from agent.wire.register.proposer import Registers
from agent.wire.register.store import RegisterStore, write_log
from agent.wire.register.voter import Voter
from agent.wire.server import Server
from tests.simulation.machine.powercut import power_cuts
from tests.support import wait_until

NAMES = ("a", "b", "c", "d", "e")


class Cluster:
    """The voters, each of which can be stopped, emptied and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.targets: dict[str, Target] = {name: str(folder / f"{name}.sock") for name in NAMES}
        self.client = Client(None)
        self.proposer = Registers("p", "file", self.client, self.targets)
        self.crashes: list[BaseException] = []
        self.running: dict[str, tuple[Server, Voter, Registers]] = {}

    def start(self, *names: str, forgotten_votes_s: float = 0.1, asks: bool = True) -> None:
        for name in names:
            registers = Registers(name, "file", self.client, self.targets)
            voter = Voter(
                name,
                "file",
                self.folder / name,
                self.client,
                self.targets,
                registers,
                registers.keys,
                self.crashes.append,
                patience_s=1.0,
                forgotten_votes_s=forgotten_votes_s,
            )
            server = Server(name, voter.endpoints())
            server.listen_unix(str(self.targets[name]))
            if asks:
                voter.start()
            self.running[name] = server, voter, registers

    def stop(self, *names: str) -> None:
        for name in names:
            server, voter, registers = self.running.pop(name)
            server.stop()
            voter.stop()
            registers.close()

    def votes(self, *names: str) -> bool:
        return all(self.running[name][1].votes for name in names)

    def close(self) -> None:
        self.stop(*self.running)
        self.proposer.close()
        self.client.close()
        assert self.crashes == []


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        found = Cluster(Path(folder))
        found.start(*NAMES)
        wait_until(lambda: found.votes(*NAMES), 5.0, "the cluster is founded")
        yield found
        found.close()


@pytest.mark.slow
def test_a_voter_that_lost_its_disk_cannot_undo_a_decision(cluster: Cluster) -> None:
    cluster.stop("d", "e")
    assert cluster.proposer.change("r", lambda _: "decided") == "decided"
    cluster.stop("a", "b", "c")
    shutil.rmtree(cluster.folder / "a")
    cluster.start("a", "d", "e")
    # a, d and e are a majority, but none of them knows the decision: a must not vote.
    with pytest.raises(NoMajority):
        cluster.proposer.read("r", timeout_s=3.0)
    cluster.start("b")
    wait_until(lambda: cluster.votes("a"), 10.0, "a has learnt")
    cluster.stop("b")
    assert cluster.proposer.read("r") == "decided"


def test_a_voter_that_only_restarts_votes_at_once(cluster: Cluster) -> None:
    cluster.stop("b")
    cluster.start("b")
    assert cluster.votes("b")


@pytest.mark.slow
def test_votes_that_were_forgotten_are_waited_for(cluster: Cluster) -> None:
    """An old proposal may still count a vote that this disk has forgotten: learning is not enough."""
    cluster.proposer.change("r", lambda _: 1)
    cluster.stop("a")
    shutil.rmtree(cluster.folder / "a")
    cluster.start("a", forgotten_votes_s=3600.0)
    assert cluster.proposer.change("r", lambda value: value + 1) == 2, "the other four continue"
    for _ in range(3):  # the time that another voter, which began later, needs to learn three times
        cluster.stop("b")
        shutil.rmtree(cluster.folder / "b")
        cluster.start("b", forgotten_votes_s=0.0)
        wait_until(lambda: cluster.votes("b"), 10.0, "b has learnt")
    assert not cluster.votes("a")


@pytest.mark.slow
def test_a_majority_founds_a_cluster_and_who_comes_late_learns() -> None:
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start("a", "b", "c")
        wait_until(lambda: cluster.votes("a", "b", "c"), 12.0, "three of five found it")
        cluster.proposer.change("r", lambda _: "early")
        cluster.start("d")
        wait_until(lambda: cluster.votes("d"), 5.0, "d has learnt")
        cluster.stop("a")
        assert cluster.proposer.read("r") == "early"
        cluster.close()


def test_a_restart_amid_the_founding_leaves_a_founder() -> None:
    """Two of five voters remember, and c is the third: if c had to learn from a majority, it never could."""
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start("c", asks=False)
        cluster.start("a", "b")
        wait_until(lambda: cluster.votes("a", "b"), 12.0, "a and b found it with c")
        cluster.stop("c")
        cluster.start("c")
        wait_until(lambda: cluster.votes("c"), 5.0, "c votes")
        cluster.proposer.change("r", lambda _: "early")
        cluster.close()


def test_an_emptied_disk_is_no_founder(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    ids = []
    for _ in range(2):
        cluster.start("a", asks=False)
        ids.append((tmp_path / "a" / "disk.id").read_text())
        cluster.stop("a")
        shutil.rmtree(tmp_path / "a")
    cluster.close()
    assert ids[0] != ids[1]


def only_text(key: str, value: Any) -> None:
    if not isinstance(value, str | None):
        raise InvalidMessage(f"register {key} holds text, found {value!r}")


class Alone:
    """One voter that may vote, with the answers of its endpoints."""

    def __init__(
        self, folder: Path, slots: dict[str, Slot] | None = None, check: Check | None = None
    ) -> None:
        self.client = Client(None)
        self.crashes: list[BaseException] = []
        self.log = folder / "registers.log"
        if slots is not None:
            write_log(self.log, slots)
        self.registers = Registers("a", "file", self.client, {})
        self.voter = Voter(
            "a",
            "file",
            folder,
            self.client,
            {},
            self.registers,
            list,
            self.crashes.append,
            check=check or only_text,
        )

    def ask(self, kind: str, **fields: Any) -> Any:
        call = Call("b", Deadline(clock.monotonic(), 5.0))
        return self.voter.endpoints()[f"file.{kind}"].answer(fields, call).message

    def close(self) -> None:
        self.voter.stop()
        self.registers.close()
        self.client.close()


def test_a_value_that_its_subsystem_refuses_is_never_voted_on_nor_written(tmp_path: Path) -> None:
    alone = Alone(tmp_path, {})
    with contextlib.closing(alone):
        assert alone.ask("prepare", key="r", ballot=[1, "p"]).voted
        before = alone.log.read_bytes()
        with pytest.raises(InvalidMessage, match="holds text"):
            alone.ask("accept", key="r", ballot=[1, "p"], value={"text": 1})
        assert alone.log.read_bytes() == before
        assert alone.ask("accept", key="r", ballot=[1, "p"], value="good").voted
        assert alone.ask("read", key="r").value == "good"


def test_a_name_that_is_not_allowed_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    """A promise is stored too."""

    def check(key: str, value: object) -> None:
        if key != "r":
            raise InvalidMessage(f"there is no register {key}")

    alone = Alone(tmp_path, {}, check)
    with contextlib.closing(alone):
        before = alone.log.read_bytes()
        for kind in ("prepare", "accept"):
            with pytest.raises(InvalidMessage, match="no register other"):
                alone.ask(kind, key="other", ballot=[1, "p"], value="x")
        assert alone.ask("read", key="other").value is None
        assert alone.log.read_bytes() == before
        assert alone.ask("prepare", key="r", ballot=[1, "p"]).voted


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "r", "ballot": [1]},
        {"key": "r", "ballot": ["1", "p"]},
        {"key": "r", "ballot": [-1, "p"]},
        {"key": "", "ballot": [1, "p"]},
        {"key": ["r"], "ballot": [1, "p"]},
        {"ballot": [1, "p"]},
    ],
)
def test_a_request_with_wrong_fields_changes_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    alone = Alone(tmp_path, {})
    with contextlib.closing(alone):
        before = alone.log.read_bytes()
        for kind in ("prepare", "accept"):
            with pytest.raises(InvalidMessage, match=kind):
                alone.ask(kind, **fields, value="x")
        assert alone.log.read_bytes() == before


def test_a_bad_value_on_disk_costs_its_register_alone_until_a_good_one_comes(tmp_path: Path) -> None:
    """An earlier release may have written the value: the agent starts, and the other voters repair it."""
    alone = Alone(tmp_path, {"bad": Slot((3, "p"), (3, "p"), 5), "good": Slot((3, "p"), (3, "p"), "x")})
    with contextlib.closing(alone):
        assert alone.ask("read", key="good").value == "x"
        assert alone.ask("keys").keys == ("bad", "good")
        for _ in range(2):
            with pytest.raises(Corrupt, match="register bad"):
                alone.ask("read", key="bad")
        with pytest.raises(Corrupt):
            alone.ask("prepare", key="bad", ballot=[4, "p"])
        assert not alone.ask("accept", key="bad", ballot=[2, "p"], value="late").voted
        with pytest.raises(Corrupt):
            alone.ask("read", key="bad")
        assert alone.ask("accept", key="bad", ballot=[4, "p"], value="new").voted
        assert alone.ask("read", key="bad").value == "new"


def test_a_failed_disk_ends_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voter whose disk failed must not continue to vote; the agent is told."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    alone = Alone(tmp_path, {})
    with contextlib.closing(alone):
        monkeypatch.setattr(disk, "fdatasync", fail)
        with pytest.raises(DiskFailed):
            alone.ask("prepare", key="r", ballot=[1, "p"])
        assert [type(error) for error in alone.crashes] == [DiskFailed]


def test_a_record_of_founders_that_is_not_one_keeps_the_agent_from_starting(tmp_path: Path) -> None:
    write_log(tmp_path / "registers.log", {})
    for text in ("[]", "{", '{"a": 5}', '"a"', "[" * 100_000):
        (tmp_path / "founders.json").write_text(text)
        with pytest.raises(Corrupt, match="founders"):
            Alone(tmp_path)


def store_of(voter: Voter) -> RegisterStore:
    assert voter._store is not None
    return voter._store


@pytest.mark.slow
def test_a_power_cut_while_a_disk_becomes_a_voter_never_makes_it_a_new_one_again(seed: int) -> None:
    """Once it has answered a vote, it votes again after a restart; before that, it is still a founder."""
    folder, client, crashes = Path("/data/hydfs"), Client(None), list[BaseException]()

    def made() -> Voter:
        registers = Registers("a", "file", client, {})
        voter = Voter("a", "file", folder, client, {}, registers, list, crashes.append)
        registers.close()
        return voter

    voted, identity = False, ""

    def program() -> None:
        nonlocal voted, identity
        voted, identity = False, ""
        voter = made()
        identity = voter._disk
        voter._begin({}, {"a": identity})
        store_of(voter).apply(Prepare("r", (1, "p")))
        voted = True
        voter.stop()

    for moment in power_cuts(program, seed=seed, lucks=20):
        voter = made()
        if voter.votes:
            assert voter._founders == {"a": identity}, str(moment)
            assert store_of(voter).slot("r").promised in ((0, ""), (1, "p")), str(moment)
            if voted:
                assert store_of(voter).slot("r").promised == (1, "p"), str(moment)
        else:
            assert not voted, str(moment)
            # A disk that others cannot know yet may get another id.
            others = {"b": Standing("x", {"a": identity or voter._disk, "b": "x"})}
            found = judge("a", voter._disk, ["a", "b"], others, patient=False)
            assert found.verdict is Verdict.VOTE, str(moment)
        voter.stop()
    client.close()
    assert crashes == []


def test_a_disk_that_has_voted_and_lost_its_log_is_no_founder(cluster: Cluster) -> None:
    """Its promises are gone: it learns from the others, as a voter with an empty disk does."""
    cluster.proposer.change("r", lambda _: "chosen")
    founders = cluster.running["b"][1].endpoints()["file.memory"].answer({}, Call("a", _soon())).message
    cluster.stop("a")
    (cluster.folder / "a" / "registers.log").unlink()
    cluster.start("a", asks=False)
    standing = cluster.running["a"][1].endpoints()["file.memory"].answer({}, Call("b", _soon())).message
    assert standing.disk != founders.founders["a"]
    found = judge("a", standing.disk, NAMES, {"b": founders}, patient=False)
    assert found.verdict is Verdict.LEARN


def _soon() -> Deadline:
    return Deadline(clock.monotonic(), 5.0)
