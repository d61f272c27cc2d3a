"""The handshake and the envelope between neighbouring releases, and the values that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.wire.messages import (
    REQUEST_TIMEOUT_S_MAX,
    Envelope,
    ErrorAnswer,
    Hello,
    Ping,
    Pong,
    Welcome,
)


def test_fields_of_a_newer_release_are_ignored() -> None:
    assert message.decode(Hello, {"type": "hello", "version": 1, "tls": "1.4"}) == Hello("hello", 1)
    assert message.decode(Welcome, {"ok": True, "version": 1, "later": []}) == Welcome(1)
    assert message.decode(Ping, {"type": "ping", "timeout_s": 1.0}) == Ping()
    assert message.decode(Pong, {"ok": True, "server": "x", "pid": 7, "load": 0.1}) == Pong("x", 7)


def test_an_envelope_of_an_older_release_has_defaults() -> None:
    assert message.decode(Envelope, {"type": "ping"}) == Envelope("ping", REQUEST_TIMEOUT_S_MAX, 0)


def test_messages_have_the_form_of_earlier_releases() -> None:
    assert message.encode(Hello(Hello.kind, 1)) == {"type": "hello", "version": 1}
    assert message.encode(Welcome(1)) == {"version": 1}


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Hello, {"type": "hello"}),
        (Hello, {"type": "hello", "version": "1"}),
        (Hello, {"type": "", "version": 1}),
        (Welcome, {"ok": True}),
        (Envelope, {"type": ["ping"]}),
        (Envelope, {"type": "ping", "view": -1}),
        (Envelope, {"type": "ping", "timeout_s": float("nan")}),
        (ErrorAnswer, {"error": "broken"}),
        (ErrorAnswer, {"error": {"code": None}}),
        (Pong, {"server": "x", "pid": -1}),
    ],
)
def test_what_is_malformed_is_refused(cls: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        message.decode(cls, fields)
