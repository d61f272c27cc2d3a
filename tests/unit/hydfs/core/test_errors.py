"""Errors between store agents survive the wire with their codes and details."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.errors import Conflict, InvalidMessage, RainStormError
from agent.common.failure import Failure
from agent.hydfs.core.errors import MOVED, FoundLength, Moved, StoreError, code_of, error_of


def over_the_wire(error: RainStormError) -> RainStormError:
    return Failure.of(error).error()


def test_a_code_that_clients_know_becomes_its_class() -> None:
    error = over_the_wire(error_of("CONFLICT", "no", FoundLength(7)))
    assert isinstance(error, Conflict)
    assert (code_of(error), error.details) == ("CONFLICT", {"length": 7})


def test_a_code_of_the_store_alone_survives_as_a_detail() -> None:
    error = error_of(MOVED, "elsewhere", Moved(("a",), "UNREACHABLE"))
    assert isinstance(error, StoreError)
    assert code_of(over_the_wire(error)) == MOVED
    assert Moved.of(over_the_wire(error)) == Moved(("a",), "UNREACHABLE")


@pytest.mark.parametrize(
    "details", [{"failed": 5}, {"failed": [1]}, {"cause": ["x"]}, {"failed": ["a"] * 65}]
)
def test_details_that_are_not_valid_count_as_none(details: dict[str, Any]) -> None:
    assert Moved.of(InvalidMessage("x", details=details)) == Moved()
