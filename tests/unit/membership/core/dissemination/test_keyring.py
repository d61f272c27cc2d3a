"""The key ring: install, use, remove, and the refused changes."""

from __future__ import annotations

import pytest

from agent.common.errors import Conflict, NotFound, UsageError
from agent.membership.core.dissemination.keyring import KEYS_MAX, KeyRing, fingerprint, parse

A, B = b"a" * 32, b"b" * 32


def test_a_rotation() -> None:
    ring = KeyRing((A,)).install(B)
    assert ring.primary == A
    assert ring.install(B) == ring, "twice is once"
    ring = ring.use(fingerprint(B))
    assert ring.keys == (B, A)
    assert ring.remove(fingerprint(A)).keys == (B,)
    assert ring.remove("ffffffff") == ring, "removing a missing key succeeds"


def test_changes_that_are_refused() -> None:
    ring = KeyRing((A,))
    with pytest.raises(Conflict, match="in use"):
        ring.remove(fingerprint(A))
    with pytest.raises(NotFound):
        ring.use(fingerprint(B))
    for index in range(KEYS_MAX - 1):
        ring = ring.install(bytes([index]) * 32)
    with pytest.raises(Conflict, match="holds 5 keys"):
        ring.install(B)


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33])
def test_text_that_is_not_a_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_fingerprint_does_not_show_the_key() -> None:
    assert len(fingerprint(A)) == 8
    assert fingerprint(A) not in A.hex()
