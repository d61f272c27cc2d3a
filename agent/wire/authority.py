"""The cluster's certificate authority: created once, it signs a certificate for each node and operator.

Keys are EC P-256: a handshake takes about a millisecond, with RSA-4096 fifteen. Private keys are written with
mode 0600, and only the operator's own tool takes them out of the folder in which they are created.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.common.shell import disk

CA_DAYS = 3650
NODE_DAYS = 825
# Clocks of new machines differ: a certificate that is not yet valid is the most common failure on day one.
BACKDATE = datetime.timedelta(hours=1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def write_private(path: Path, data: bytes) -> None:
    """Writes a secret so that only its owner can ever read it."""
    disk.write_durably(path, data, 0o600)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


class Authority:
    """A certificate authority in a folder: ``ca.pem`` to hand out, ``ca.key`` to guard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_path = folder / "ca.pem"
        self._key_path = folder / "ca.key"

    def create(self, cluster: str) -> None:
        """Creates the authority, unless the folder already has one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._key_path.exists() and self.certificate_path.exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{cluster} authority")
        certificate = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self._key_path, _pem(key))
        disk.write_durably(self.certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def issue(self, name: str, folder: Path) -> None:
        """Writes ``<name>.pem`` and ``<name>.key`` for a node or operator into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority_key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        authority = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(name), authority.subject, key.public_key(), NODE_DAYS)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        write_private(folder / f"{name}.key", _pem(key))
        disk.write_durably(
            folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644
        )


def ephemeral_identity(name: str) -> bytes:
    """Returns a private key and a self-signed certificate (PEM) that a closed group of processes shares.

    Any process that holds the key belongs to the group. The certificate is its own trust anchor, and neither
    is ever written to disk.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(name), _name(name), key.public_key(), 30)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
