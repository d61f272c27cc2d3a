"""Contexts for TLS 1.3 with certificates on both sides, and the name in a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from agent.common.config import TlsConfig
from agent.common.errors import ConfigError
from agent.wire import auth
from agent.wire.authority import Authority


@pytest.fixture
def tls(tmp_path: Path) -> TlsConfig:
    authority = Authority(tmp_path)
    authority.create("test")
    authority.issue("vm1", tmp_path)
    return TlsConfig(str(tmp_path / "ca.pem"), str(tmp_path / "vm1.pem"), str(tmp_path / "vm1.key"))


def test_both_sides_ask_for_a_certificate_and_tls_1_3(tls: TlsConfig) -> None:
    server, client = auth.server_context(tls), auth.client_context(tls)
    for context in (server, client):
        assert isinstance(context, ssl.SSLContext)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert isinstance(client, ssl.SSLContext)
    assert client.check_hostname


@pytest.mark.parametrize("broken", ["ca", "certificate", "key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_files_that_cannot_be_used_are_named(tls: TlsConfig, broken: str, content: str | None) -> None:
    path = Path(getattr(tls, broken))
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for make in (auth.server_context, auth.client_context):
        with pytest.raises(ConfigError, match=path.name) as refused:
            make(tls)
        assert "create the cluster's certificates again" in refused.value.hint


class Shown:
    """A socket whose peer showed a certificate."""

    def __init__(self, certificate: dict[str, Any] | None) -> None:
        self.certificate = certificate

    def getpeercert(self) -> dict[str, Any] | None:
        return self.certificate


def test_the_name_of_a_peer_is_its_dns_name() -> None:
    names = (("IP Address", "10.0.0.1"), ("DNS", "vm7"), ("DNS", "vm8"))
    assert auth.peer_name(Shown({"subjectAltName": names})) == "vm7"
    for certificate in (None, {}, {"subjectAltName": (("IP Address", "10.0.0.1"),)}):
        assert auth.peer_name(Shown(certificate)) == "unknown"
