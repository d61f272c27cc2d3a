"""The certificate by which the tasks of one generation of a job recognise each other.

The leader makes it for one generation and hands it to that generation's tasks only. Both ends of a channel
show it, and it is the only one that either end accepts. So tasks hold no key of the cluster, and a task of an
older generation cannot connect at all.
"""

from __future__ import annotations

import os
import ssl
from typing import Protocol

from agent.common.errors import ProtocolError
from agent.common.shell.network import TlsContext

BEGIN = b"-----BEGIN CERTIFICATE-----"


class Identity(Protocol):
    """The TLS contexts of the two ends of a channel."""

    @property
    def server(self) -> TlsContext: ...

    @property
    def client(self) -> TlsContext: ...


class JobIdentity:
    """The certificate and key of one generation, as TLS contexts."""

    def __init__(self, pem: bytes) -> None:
        """Loads the certificate and its key.

        Raises:
            ProtocolError: ``pem`` does not hold both.
        """
        self.server: TlsContext = self._context(ssl.PROTOCOL_TLS_SERVER, pem)
        self.client: TlsContext = self._context(ssl.PROTOCOL_TLS_CLIENT, pem)

    @staticmethod
    def _context(purpose: int, pem: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The certificate itself is the trust anchor, so its name says nothing that needs checking.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # load_cert_chain reads files only; a memory file never touches a disk.
        descriptor = os.memfd_create("job-identity")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            context.load_verify_locations(cadata=pem[pem.index(BEGIN) :].decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise ProtocolError(f"the certificate of the job cannot be used: {error}") from None
        finally:
            os.close(descriptor)
        return context
