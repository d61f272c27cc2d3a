"""The keys of the gossip datagrams: the first one seals, all of them open.

To replace a key without losing a datagram, the new key is installed on all nodes, then used on all nodes, and
then the old key is removed from all nodes. Users see fingerprints, never keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from agent.common.errors import Conflict, NotFound, UsageError

KEY_BYTES = 32
FINGERPRINT_BYTES = 4
# A rotation needs two; more than a few mean that old keys are not removed.
KEYS_MAX = 5


def key_id(key: bytes) -> bytes:
    """Returns the public fingerprint of a key, which each datagram carries."""
    return hashlib.sha256(b"rainstorm gossip key\0" + key).digest()[:FINGERPRINT_BYTES]


def fingerprint(key: bytes) -> str:
    """Returns the fingerprint of a key as users see it."""
    return key_id(key).hex()


def parse(text: str) -> bytes:
    """Returns the key that 64 hexadecimal digits stand for.

    Raises:
        UsageError: the text is not a key.
    """
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError("a gossip key is 64 hexadecimal digits", hint="make one with: openssl rand -hex 32")
    return key


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one node; never empty."""

    keys: tuple[bytes, ...]

    @property
    def primary(self) -> bytes:
        """Returns the key that seals."""
        return self.keys[0]

    def fingerprints(self) -> list[str]:
        """Returns the fingerprints of all keys, the primary's first."""
        return [fingerprint(key) for key in self.keys]

    def install(self, key: bytes) -> KeyRing:
        """Returns a ring that also opens with ``key``.

        Raises:
            Conflict: the ring is full.
        """
        if key in self.keys:
            return self
        if len(self.keys) >= KEYS_MAX:
            raise Conflict(f"the key ring already holds {KEYS_MAX} keys", hint="list them: fab keys.list")
        return KeyRing((*self.keys, key))

    def use(self, wanted: str) -> KeyRing:
        """Returns a ring that seals with the key of this fingerprint."""
        key = self._find(wanted)
        return KeyRing((key, *(other for other in self.keys if other != key)))

    def remove(self, wanted: str) -> KeyRing:
        """Returns a ring without the key of this fingerprint; the ring itself when it has no such key.

        Raises:
            Conflict: it is the primary.
        """
        if wanted not in self.fingerprints():
            return self
        key = self._find(wanted)
        if key == self.primary:
            raise Conflict(f"the key {wanted} is in use", hint="use another one first: fab keys.rotate")
        return KeyRing(tuple(other for other in self.keys if other != key))

    def _find(self, wanted: str) -> bytes:
        for key in self.keys:
            if fingerprint(key) == wanted:
                return key
        raise NotFound(f"the key {wanted} is not installed", hint="list the keys: fab keys.list")
