"""The exchange of tables over a real connection, and the effect of a failure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.config import MembershipConfig
from agent.common.shell import threads
from agent.membership.core.events import Contact, TableReceived
from agent.membership.core.monitor import Monitor
from agent.membership.member import Member, State
from agent.membership.shell.exchange import WAITING_MAX, AntiEntropy
from agent.wire.client import Client
from agent.wire.server import Server
from tests.support import wait_until


def member(name: str) -> Member:
    return Member(name, f"{int(name[1:]):032x}", 1, 0, State.ALIVE, "10.0.0.1", 7100)


class Side:
    """One node's table, and the records that the other one sent."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.crashes: list[BaseException] = []
        self.posted: list[TableReceived] = []
        contacts = {other: Contact("10.0.0.1", 7100) for other in ("n1", "n2")}
        self.monitor = Monitor(member(name), contacts, MembershipConfig(), random.Random(1))
        self.exchange = AntiEntropy(
            lambda: Client(None),
            lambda other: str(folder / f"{other}.sock"),
            lambda: self.monitor.roster,
            self._post,
            self.crashes.append,
        )
        self.server = Server(name, self.exchange.endpoints())
        self.server.listen_unix(str(folder / f"{name}.sock"))
        self.exchange.start()

    def _post(self, event: object) -> None:
        assert isinstance(event, TableReceived)
        self.posted.append(event)

    def stop(self) -> None:
        self.exchange.stop(5.0)
        self.server.stop()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    made = (Side("n1", tmp_path), Side("n2", tmp_path))
    try:
        yield made
    finally:
        for side in made:
            side.stop()


def test_two_nodes_swap_the_records_that_differ(sides: tuple[Side, Side]) -> None:
    one, two = sides
    two.monitor.table.put(member("n7"))
    one.monitor.table.put(replace(member("n2"), incarnation=4))
    one.exchange.ask("n2")
    wait_until(lambda: one.posted and two.posted, 5.0, "both get the other's records")
    assert {update.member.name for update in one.posted[0].updates} >= {"n2", "n7"}
    assert {update.member.name for update in two.posted[0].updates} >= {"n1", "n2"}
    assert (one.exchange.compared, one.exchange.swapped) == (1, 1)


def test_equal_tables_are_compared_and_not_swapped(sides: tuple[Side, Side]) -> None:
    one, two = sides
    one.monitor.table.put(member("n2"))
    two.monitor.table.put(member("n1"))
    one.exchange.ask("n2")
    wait_until(lambda: one.exchange.compared == 1, 5.0, "they are compared")
    assert (one.exchange.swapped, one.posted, two.posted) == (0, [], [])


def test_partner_that_is_down_costs_nothing(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    one.exchange.ask("n9")
    one.exchange.ask("n2")
    wait_until(lambda: one.exchange.compared == 1, 5.0, "the next partner has its turn")
    assert one.crashes == []


def test_waiting_partners_are_bounded(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    gate = threads.event()
    one.exchange._make_client = lambda: (gate.wait(5.0), Client(None))[1]
    for _number in range(3 * WAITING_MAX):
        one.exchange.ask("n2")
    assert one.exchange._worker.waiting <= WAITING_MAX
    gate.set()


def test_defect_in_the_thread_ends_the_agent(sides: tuple[Side, Side]) -> None:
    one, _ = sides

    def broken() -> Client:
        raise ZeroDivisionError

    one.exchange._make_client = broken
    one.exchange.ask("n2")
    wait_until(lambda: one.crashes, 5.0, "the crash is reported")
    one.exchange.ask("n2")  # refused: the thread is gone
