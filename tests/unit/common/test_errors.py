"""Errors survive the wire with their code, and every code belongs to one class."""

from __future__ import annotations

from collections.abc import Iterator

from agent.common.errors import Conflict, Internal, RainStormError
from agent.common.failure import Failure


def _tree(root: type[RainStormError]) -> Iterator[type[RainStormError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def test_codes_are_unique() -> None:
    """A program that branches on a code must know which error it means."""
    kinds = [kind for kind in _tree(RainStormError) if "code" in vars(kind) and kind is not RainStormError]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert all(code == code.upper() for code in codes)
    assert all(1 <= kind.exit_status <= 5 for kind in kinds)


def test_a_class_without_a_code_takes_nobodys_place() -> None:
    """A subsystem may derive from an error without changing what others get from the wire."""

    class Narrower(Internal):
        """An error that never leaves its subsystem."""

    assert type(Failure(Narrower.code).error()) is Internal


def test_an_error_is_the_same_behind_the_wire() -> None:
    """Class, message, hint and details arrive."""
    sent = Conflict("the file has 3 bytes", hint="read it again", details={"length": 3})
    found = Failure.of(sent).error()
    assert type(found) is Conflict
    assert (found.message, found.hint, found.details) == (sent.message, sent.hint, sent.details)


def test_an_unknown_code_becomes_internal() -> None:
    """An error code of a newer peer still arrives as an error."""
    assert type(Failure("FROM_THE_FUTURE", "?").error()) is Internal
    assert type(Failure().error()) is Internal
