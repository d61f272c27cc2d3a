"""Sealed datagrams: AES-256-GCM, the sender authenticated, replays dropped.

Layout: format (1 byte), name length (1), name, boot (8), session (16), counter (8), fingerprint of the key
(4), then ciphertext and tag. Everything before the ciphertext is authenticated as associated data. Each
session (one run of one agent) has its own keys, derived from the keys of the cluster's ring by HMAC-SHA256
over name, boot and the random session. So the counter can be the nonce, and no two datagrams of the cluster
ever share key and nonce. A receiver keeps a window of 64 counters for each sender (as RFC 4303, section
3.4.3), whichever key they are sealed with, and knows only the newest boot of each sender.

The limits: the key is shared, so every holder can seal in the name of any node. The receiver therefore also
compares the source address of a datagram with the configured address of the name (``transport``): a forger
must be able to send from the victim's address. Requests that change anything go over TLS, where each node has
its own key.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.common.errors import ProtocolError
from agent.membership.core.dissemination.keyring import FINGERPRINT_BYTES, key_id

FORMAT = 2
SESSION_BYTES = 16
TAG_BYTES = 16
TAIL = struct.Struct(f">Q{SESSION_BYTES}sQ{FINGERPRINT_BYTES}s")
NONCE = struct.Struct(">IQ")
WINDOW = 64
# More than any cluster has nodes: it limits how much a holder of the key can make a receiver store.
SENDERS_MAX = 4096


class EarlierBoot(ProtocolError):
    """A datagram from a boot before the known one: a replay, or the disk is new or was restored."""

    def __init__(self, sender: str, boot: int) -> None:
        super().__init__(f"datagram of {sender} from a boot before {boot}")
        self.sender = sender
        self.boot = boot


class ReplayWindow:
    """The counters seen of one session: the highest, and a bit for each of the 64 below it."""

    __slots__ = ("_bits", "_highest")

    def __init__(self) -> None:
        self._highest = 0
        self._bits = 0

    def accept(self, counter: int) -> bool:
        """Tells whether ``counter`` is new, and remembers it."""
        if counter > self._highest:
            self._bits = ((self._bits << (counter - self._highest)) | 1) & ((1 << WINDOW) - 1)
            self._highest = counter
            return True
        age = self._highest - counter
        if age >= WINDOW or self._bits >> age & 1:
            return False
        self._bits |= 1 << age
        return True


@dataclass(slots=True)
class _Session:
    boot: int
    session: bytes
    ciphers: dict[bytes, AESGCM]
    window: ReplayWindow


@dataclass(frozen=True, slots=True)
class Opened:
    """A datagram that was accepted: its sender, the sender's boot, and its content."""

    sender: str
    boot: int
    data: bytes


def _cipher(key: bytes, name: bytes, boot: int, session: bytes) -> AESGCM:
    label = b"rainstorm gossip\0" + struct.pack(">BQ", len(name), boot) + name + session
    return AESGCM(hmac.new(key, label, hashlib.sha256).digest())


class Sealer:
    """Seals what this node sends."""

    def __init__(self, key: bytes, name: str, boot: int, session: bytes) -> None:
        self._name = name.encode()
        self._boot = boot
        self._session = session
        self._counter = 0
        self.use(key)

    def use(self, key: bytes) -> None:
        """Seals with this key from now on."""
        # One assignment, because another thread may be sealing at the same time.
        self._key = key_id(key), _cipher(key, self._name, self._boot, self._session)

    def seal(self, data: bytes) -> bytes:
        """Returns ``data`` sealed under the next counter."""
        self._counter += 1
        mark, cipher = self._key
        tail = TAIL.pack(self._boot, self._session, self._counter, mark)
        header = bytes((FORMAT, len(self._name))) + self._name + tail
        return header + cipher.encrypt(NONCE.pack(0, self._counter), data, header)


class Opener:
    """Opens the datagrams of other nodes."""

    def __init__(self, *keys: bytes) -> None:
        self._keys: dict[bytes, bytes] = {}
        self._sessions: dict[bytes, _Session] = {}
        self.replace_keys(keys)

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Opens with these keys from now on."""
        self._keys = {key_id(key): key for key in keys}

    def open(self, packet: bytes, admit: Callable[[str], bool] = lambda sender: True) -> Opened:
        """Returns what a sealed datagram holds.

        Only a datagram whose sender is admitted changes what is known about sessions: an impostor must not
        make the datagrams of the real node look old.

        Raises:
            EarlierBoot: the sender is known in a later boot.
            ProtocolError: it is malformed, forged, not admitted, or a replay.
        """
        if len(packet) < 2 or packet[0] != FORMAT:
            raise ProtocolError("datagram of an unknown format")
        start = 2 + packet[1]
        end = start + TAIL.size
        if len(packet) < end + TAG_BYTES:
            raise ProtocolError("truncated datagram")
        name = packet[2:start]
        boot, session, counter, mark = TAIL.unpack_from(packet, start)
        key = self._keys.get(mark)
        if key is None:
            raise ProtocolError("datagram is sealed with a key that is not in the ring")
        known = self._sessions.get(name)
        fresh = known is None or (known.boot, known.session) != (boot, session)
        entry = _Session(boot, session, {}, ReplayWindow()) if known is None or fresh else known
        cipher = entry.ciphers.get(mark) or _cipher(key, name, boot, session)
        try:
            data = cipher.decrypt(NONCE.pack(0, counter), packet[end:], packet[:end])
        except InvalidTag:
            raise ProtocolError("datagram is not sealed with the key that it names") from None
        sender = name.decode("utf-8", "replace")
        if not admit(sender):
            raise ProtocolError(f"datagram in the name of {sender} from another address")
        if known is not None and boot < known.boot:
            raise EarlierBoot(sender, known.boot)
        if known is not None and fresh and boot == known.boot:
            raise ProtocolError("two sessions of one boot: a replay, or two nodes of one name")
        if fresh and len(self._sessions) >= SENDERS_MAX and name not in self._sessions:
            raise ProtocolError("too many senders")
        if not entry.window.accept(counter):
            raise ProtocolError("replayed datagram")
        entry.ciphers[mark] = cipher
        self._sessions[name] = entry
        return Opened(sender, boot, data)
