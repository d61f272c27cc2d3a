"""The certificate of a generation: both ends show it, and no other is accepted."""

from __future__ import annotations

import ssl

import pytest

from agent.common.errors import ProtocolError
from agent.rainstorm.task.shell.identity import JobIdentity
from agent.wire.authority import ephemeral_identity


def test_both_ends_ask_for_the_certificate_of_the_generation() -> None:
    """TLS 1.3 on both sides, and no other certificate is accepted."""
    made = JobIdentity(ephemeral_identity("j-1"))
    for context in (made.server, made.client):
        assert isinstance(context, ssl.SSLContext)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs(binary_form=True)) == 1


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff" * 100])
def test_an_identity_that_is_no_certificate_is_refused(pem: bytes) -> None:
    """It is an error of the assignment, not of the process."""
    with pytest.raises(ProtocolError, match="certificate of the job"):
        JobIdentity(pem)
