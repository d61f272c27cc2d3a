"""Errors as messages: they survive the wire, and a newer or hostile peer's errors are handled."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common import errors, message
from agent.common.errors import Conflict, Internal, InvalidMessage, NotFound, RainStormError
from agent.common.failure import DETAILS_MAX, Failure
from agent.common.message import TEXT_CHARS_MAX


def _sent(failure: Failure) -> Failure:
    packed = msgpack.packb(message.encode(failure))
    return message.decode(Failure, msgpack.unpackb(packed))


def test_an_error_survives_the_wire_with_its_class() -> None:
    for kind in errors.by_code().values():
        error = _sent(Failure.of(kind("what failed", hint="fab status", details={"length": 5}))).error()
        assert type(error) is kind
        assert (error.message, error.hint, error.details) == ("what failed", "fab status", {"length": 5})


def test_an_unknown_code_of_a_newer_release_becomes_internal() -> None:
    found = message.decode(Failure, {"code": "FROM_THE_FUTURE", "message": "new", "extra": 1}).error()
    assert (type(found), found.message) == (Internal, "new")


def test_missing_fields_have_defaults() -> None:
    found = message.decode(Failure, {}).error()
    assert (type(found), found.message, found.hint, found.details) == (Internal, "", "", {})


def test_what_no_message_can_hold_is_cut_or_replaced() -> None:
    error = NotFound("x" * 100_000, hint="file \udcff", details={str(n): n for n in range(200)})
    found = _sent(Failure.of(error))
    assert len(found.message) == TEXT_CHARS_MAX
    assert found.hint == "file ?"
    assert len(found.details) == DETAILS_MAX


@pytest.mark.parametrize(
    "fields",
    [
        {"code": 5},
        {"code": ""},
        {"code": "X" * 300},
        {"message": None},
        {"hint": ["a"]},
        {"details": []},
        {"details": {1: 2}},
        "CONFLICT",
    ],
)
def test_a_malformed_error_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidMessage):
        message.decode(Failure, fields)


def test_subclasses_keep_their_codes_apart() -> None:
    known = errors.by_code()
    assert known["CONFLICT"] is Conflict
    assert issubclass(known["INVALID_MESSAGE"], RainStormError)
    assert set(errors.by_code(Conflict)) == {"CONFLICT"}
