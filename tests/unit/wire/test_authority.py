"""The certificate authority: it signs certificates, protects keys, and keeps existing files."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.wire.authority import BACKDATE, NODE_DAYS, Authority, ephemeral_identity, write_private


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path / "ca")
    found.create("test")
    return found


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_creating_again_keeps_the_authority(authority: Authority) -> None:
    before = authority.certificate_path.read_bytes()
    authority.create("test")
    assert authority.certificate_path.read_bytes() == before
    assert os.stat(authority.folder).st_mode & 0o777 == 0o700
    assert os.stat(authority.folder / "ca.key").st_mode & 0o777 == 0o600


def test_a_certificate_names_its_node_and_is_signed_by_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue("vm1", tmp_path / "vm1")
    ca, node = _certificate(authority.certificate_path), _certificate(tmp_path / "vm1" / "vm1.pem")
    node.verify_directly_issued_by(ca)
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["vm1"]
    purposes = node.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not node.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_certificate_is_valid_even_where_the_clock_is_behind(authority: Authority, tmp_path: Path) -> None:
    authority.issue("vm1", tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    found = _certificate(tmp_path / "vm1.pem")
    assert found.not_valid_before_utc <= now - BACKDATE
    assert found.not_valid_after_utc - now > datetime.timedelta(days=NODE_DAYS - 1)


def test_the_key_belongs_to_the_certificate_and_to_its_owner(authority: Authority, tmp_path: Path) -> None:
    authority.issue("vm1", tmp_path)
    assert os.stat(tmp_path / "vm1.key").st_mode & 0o777 == 0o600
    key = load_pem_private_key((tmp_path / "vm1.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == _certificate(tmp_path / "vm1.pem").public_key()


def test_a_secret_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "gossip.key"
    for secret in (b"a long secret", b"short"):
        write_private(path, secret)
        assert path.read_bytes() == secret
        assert os.stat(path).st_mode & 0o777 == 0o600


def test_an_ephemeral_identity_is_its_own_trust_anchor() -> None:
    pem = ephemeral_identity("job-1")
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    certificate.verify_directly_issued_by(certificate)
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()
    assert ephemeral_identity("job-1") != pem
