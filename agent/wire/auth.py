"""Decides who may connect: mutual TLS 1.3, with certificates of the cluster's own authority.

Each node has one certificate whose subject alternative name is the node's name. Both sides verify: a client
checks that the server is the node that it meant, a server learns from the certificate which node is calling.
There is no plain mode; only the Unix sockets, which file permissions protect, work without TLS. Operators
connect with a certificate for the name ``operator``.
"""

from __future__ import annotations

from typing import Any

from agent.common.config import TlsConfig
from agent.common.errors import ConfigError
from agent.common.shell import network
from agent.common.shell.network import TlsContext


def _context(tls: TlsConfig, *, server_side: bool) -> TlsContext:
    try:
        return network.tls_context(tls.certificate, tls.key, tls.ca, server_side=server_side)
    except OSError as error:
        raise ConfigError(
            f"TLS files cannot be used ({tls.ca}, {tls.certificate}, {tls.key}): {error}",
            hint="create the cluster's certificates again (fab local.up does it for a local cluster)",
        ) from None


def server_context(tls: TlsConfig) -> TlsContext:
    """Returns the context for accepting connections; the peer must show a certificate of the cluster."""
    return _context(tls, server_side=True)


def client_context(tls: TlsConfig) -> TlsContext:
    """Returns the context for connecting; the server's certificate must carry the name asked for."""
    return _context(tls, server_side=False)


def peer_name(sock: Any) -> str:
    """Returns the node name in the certificate that the peer showed."""
    certificate = sock.getpeercert() or {}
    for entry in certificate.get("subjectAltName", ()):
        if entry[0] == "DNS":
            return str(entry[1])
    return "unknown"
