"""Every method of a client refuses a wrong argument with USAGE and a hint, and sends nothing."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest

from agent.common.errors import UsageError
from agent.hydfs.client import HydfsClient
from agent.logs.client import LogsClient
from agent.logs.messages import StartSearch
from agent.membership.client import MembershipClient
from agent.rainstorm.client import RainstormClient

Call = Callable[[Any], object]


class NoWire:
    """A wire that must not be used."""

    def ask(self, target: str, request: Any, payload: Any = b"", **options: Any) -> Any:
        """Fails."""
        pytest.fail(f"{request} was sent")


WIRE: Any = NoWire()
CLIENTS: tuple[Any, ...] = (
    HydfsClient(WIRE, "agent"),
    MembershipClient(WIRE, "agent"),
    RainstormClient(WIRE, ["agent"]),
    LogsClient(WIRE, "agent"),
)
LONE = "\udc80"
LONG = "x" * 70_000
CALLS: dict[str, tuple[Call, ...]] = {
    "HydfsClient.create": (lambda c: c.create(""), lambda c: c.create("a/../b"), lambda c: c.create(LONE)),
    "HydfsClient.append": (
        lambda c: c.append("", b"x", writer="w", sequence=1),
        lambda c: c.append("f", b"", writer="w", sequence=1),
        lambda c: c.append("f", bytes(16 * 1024 * 1024 + 1), writer="w", sequence=1),
        lambda c: c.append("f", b"x", writer="", sequence=1),
        lambda c: c.append("f", b"x", writer=LONE, sequence=1),
        lambda c: c.append("f", b"x", writer="w" * 256, sequence=1),
        lambda c: c.append("f", b"x", writer="w", sequence=-1),
        lambda c: c.append("f", b"x", writer="w", sequence=1 << 64),
        lambda c: c.append("f", b"x", writer="w", sequence="1"),
        lambda c: c.append("f", b"x", writer="w", sequence=1, if_offset=-1),
    ),
    "HydfsClient.read": (
        lambda c: c.read("", 0, 1),
        lambda c: c.read("f", -1, 1),
        lambda c: c.read("f", 0, -1),
        lambda c: c.read("f", 0, 1, file_id="x" * 1000),
    ),
    "HydfsClient.map_block": (
        lambda c: c.map_block("", 0, "id"),
        lambda c: c.map_block("f", -1, "id"),
        lambda c: c.map_block("f", 0, ""),
    ),
    "HydfsClient.stat": (lambda c: c.stat(""),),
    "HydfsClient.put": (lambda c: c.put("", io.BytesIO()), lambda c: c.put("a\n", io.BytesIO())),
    "HydfsClient.get": (lambda c: c.get("", io.BytesIO()),),
    "HydfsClient.list": (lambda c: c.list("x" * 256), lambda c: c.list(LONE)),
    "HydfsClient.pages": (lambda c: next(c.pages("x" * 256)),),
    "HydfsClient.store": (lambda c: c.store("x" * 256),),
    "HydfsClient.delete": (lambda c: c.delete(""),),
    "HydfsClient.delete_prefix": (lambda c: c.delete_prefix(""), lambda c: c.delete_prefix("x" * 256)),
    "MembershipClient.members": (lambda c: c.members(probe="yes"),),
    "MembershipClient.watch": (lambda c: c.watch(-1, 1.0), lambda c: c.watch(0, float("nan"))),
    "MembershipClient.hint": (lambda c: c.hint(""),),
    "MembershipClient.why": (lambda c: c.why(""), lambda c: c.why("x" * 256)),
    "MembershipClient.events": (lambda c: c.events(-1, 0.0), lambda c: c.events(0, -1.0)),
    "MembershipClient.switch": (lambda c: c.switch("x" * 256, None), lambda c: c.switch(None, "on")),
    "MembershipClient.drop": (lambda c: c.drop("5"), lambda c: c.drop(float("nan"))),
    "MembershipClient.replace_voter": (lambda c: c.replace_voter("x" * 256, ""),),
    "MembershipClient.keys": (lambda c: c.keys("destroy"), lambda c: c.keys("install", key=LONG)),
    "RainstormClient.submit": (lambda c: c.submit(object()), lambda c: c.submit({"a": LONE})),
    "RainstormClient.job": (lambda c: c.job(""),),
    "RainstormClient.wait": (lambda c: c.wait("", 1.0),),
    "RainstormClient.cancel": (lambda c: c.cancel(""),),
    "RainstormClient.kill_task": (lambda c: c.kill_task(task=LONG), lambda c: c.kill_task(pid=-1)),
    "LogsClient.search": (
        lambda c: next(c.search(StartSearch("-", b"", since=float("nan")))),
        lambda c: next(c.search(StartSearch("-", "text"))),  # type: ignore[arg-type]
    ),
    "LogsClient.follow": (
        lambda c: c.follow(None, wait_s=float("nan")),
        lambda c: c.follow(None, files=[LONE]),
    ),
}


def methods() -> list[str]:
    return [
        f"{type(client).__name__}.{name}"
        for client in CLIENTS
        for name, method in inspect.getmembers(client, inspect.ismethod)
        if not name.startswith("_") and set(inspect.signature(method).parameters) - {"timeout_s"}
    ]


def test_every_method_with_arguments_is_in_the_table() -> None:
    assert sorted(CALLS) == sorted(methods())


@pytest.mark.parametrize("method", CALLS)
def test_a_wrong_argument_is_refused_before_anything_is_sent(method: str) -> None:
    client = next(each for each in CLIENTS if type(each).__name__ == method.partition(".")[0])
    for number, call in enumerate(CALLS[method]):
        with pytest.raises(UsageError) as refused:
            call(client)
        assert refused.value.hint, f"call {number}: {refused.value}"


def test_the_error_names_the_argument() -> None:
    with pytest.raises(
        UsageError, match=r"hydfs\.append: the argument writer is not allowed: Expected `str`"
    ):
        CLIENTS[0].append("f", b"x", writer="", sequence=1)
