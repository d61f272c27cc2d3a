"""The datagram socket: one thread receives, the core's thread sends.

A datagram that cannot be opened is dropped and counted. Linux reports "port unreachable" answers together
with the address that the datagram was sent to (``network.take_refusal``), so the first datagram to a process
that is gone reveals it. A datagram that names a configured node must come from that node's address. For
experiments a share of the incoming datagrams can be discarded.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping

from agent.common.errors import PortInUse, ProtocolError, RainStormError
from agent.common.shell import network, threads
from agent.membership import datagrams
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.dissemination.seal import SESSION_BYTES, EarlierBoot, Opener, Sealer
from agent.membership.core.events import Contact
from agent.membership.datagrams import Datagram

logger = logging.getLogger("agent.membership.shell.transport")

RECEIVE_BYTES = 2048
# These errors mean that the descriptor itself cannot be used. Every other error is the network's answer to an
# earlier datagram, and any machine on the path may send one (ICMP has sixteen codes for "unreachable" alone).
SOCKET_ERRORS = (errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT)
# A flood of refusals may bring this many errors in a row; after that the receiver pauses for each one.
ERRORS_IN_A_ROW = 100
ERROR_PAUSE_S = 0.01


class Transport:
    """Sealed datagrams to and from other agents."""

    def __init__(
        self,
        name: str,
        ring: KeyRing,
        addresses: Mapping[str, str],
        on_datagram: Callable[[str, int, Datagram], None],
        on_refused: Callable[[str, int], None],
        on_impostor: Callable[[str, str, int], None],
        on_earlier_boot: Callable[[str, int], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.sent = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.dropped = 0
        self._name = name
        self.discarded = 0
        self.drop_percent = 0.0
        self._ring = ring
        self._addresses = addresses
        self._rng = threads.random_source()
        self._on_impostor = on_impostor
        self._on_earlier_boot = on_earlier_boot
        self._on_datagram = on_datagram
        self._on_refused = on_refused
        self._on_crash = on_crash
        self._errors = 0
        self._opener = Opener(*ring.keys)
        self._sealer: Sealer | None = None
        self._socket: network.Socket | None = None
        self._stopping = threads.event()
        self._thread = threads.thread("membership-datagrams", self._run)

    def bind(self, address: str, port: int) -> None:
        """Binds the address.

        Raises:
            PortInUse: another process has it.
        """
        try:
            self._socket = network.datagram(address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"membership: UDP {address}:{port} is in use by another process",
                    hint=f"find it with: ss -lunp 'sport = :{port}'; stop it or choose another port",
                ) from None
            raise

    def start(self) -> None:
        """Starts to receive."""
        self._thread.start()

    def set_boot(self, boot: int) -> None:
        """Sends with this boot counter, in a new session, from now on."""
        self._sealer = Sealer(self._ring.primary, self._name, boot, threads.random_bytes(SESSION_BYTES))

    def set_ring(self, ring: KeyRing) -> None:
        """Opens with the keys of this ring and seals with its primary from now on."""
        self._ring = ring
        self._opener.replace_keys(ring.keys)
        if self._sealer is not None:
            self._sealer.use(ring.primary)

    def set_drop(self, percent: float, seed: int | None) -> None:
        """Discards this share of the incoming datagrams, chosen by a seeded random source."""
        rng = threads.random_source()
        if seed is not None:
            rng.seed(seed)
        self._rng = rng
        self.drop_percent = percent

    def send(self, contact: Contact, datagram: Datagram) -> None:
        """Sends a datagram; one that the network refuses counts as lost."""
        assert self._socket is not None
        assert self._sealer is not None
        packet = self._sealer.seal(datagrams.encode(datagram))
        target = (contact.address, contact.port)
        try:
            self._socket.sendto(packet, target)
        except OSError:
            # Usually the answer to an earlier datagram, which the error queue names; this one was not sent.
            self._drain_errors()
            try:
                self._socket.sendto(packet, target)
            except OSError as error:
                logger.debug("send_failed target=%s:%s error=%s", *target, error)
        self.sent += 1
        self.sent_bytes += len(packet)

    def stop(self, timeout_s: float) -> None:
        """Ends the thread and frees the address."""
        self._stopping.set()
        if self._socket is None:
            return
        if self._thread.is_alive():
            self._wake()
            self._thread.join(timeout_s)
        self._socket.close()

    def _wake(self) -> None:
        """Sends an empty datagram to itself; an answer to an earlier datagram may make the first one fail."""
        assert self._socket is not None
        for _ in range(2):
            try:
                self._socket.sendto(b"", self._socket.getsockname())
                return
            except OSError as error:
                logger.debug("wake_failed error=%s", error)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._receive()
        except BaseException as error:
            if not self._stopping.is_set():
                logger.exception("receiver_crashed")
                self._on_crash(error)

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            packet, source = self._socket.recvfrom(RECEIVE_BYTES)
        except OSError as error:
            if error.errno in SOCKET_ERRORS:
                raise
            self._drain_errors()
            self._errors += 1
            if self._errors > ERRORS_IN_A_ROW:
                self._stopping.wait(ERROR_PAUSE_S)
            return
        self._errors = 0
        self.received_bytes += len(packet)
        if self._stopping.is_set():
            return
        if self.drop_percent and self._rng.random() * 100 < self.drop_percent:
            self.discarded += 1
            return
        try:
            opened = self._opener.open(packet, lambda sender: self._comes_from(sender, *source))
            self._on_datagram(opened.sender, opened.boot, datagrams.decode(opened.data))
        except RainStormError as error:
            self.dropped += 1
            if isinstance(error, EarlierBoot):
                self._on_earlier_boot(error.sender, error.boot)
            level = logging.DEBUG if isinstance(error, ProtocolError) else logging.WARNING
            logger.log(level, "datagram_dropped total=%d reason=%s", self.dropped, error)

    def _comes_from(self, sender: str, address: str, port: int) -> bool:
        """Tells whether a datagram of ``sender`` may come from an address; reports it if not."""
        if self._addresses.get(sender, address) == address:
            return True
        self._on_impostor(sender, address, port)
        return False

    def _drain_errors(self) -> None:
        assert self._socket is not None
        while (refusal := network.take_refusal(self._socket)) is not None:
            if not self._stopping.is_set():
                self._on_refused(*refusal)
