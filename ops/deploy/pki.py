"""A deployed cluster's secrets on the controller: ``.rainstorm/<cluster>/`` in the checkout, never in git.

    ca/             the cluster's own certificate authority
    operator/       the operator's certificate, used by fab
    gossip.key      the key that nodes are configured with
    nodes/<name>/   each node's certificate and key, as the playbook copies them to its VM

``python -m ops.deploy.pki --inventory FILE`` creates what is missing and nothing else. It replaces a
certificate that expires soon, was signed by another authority or has another name; ``--renew`` replaces all
of them. It prints one JSON object that lists what was created. It never prints a secret or takes one as an
argument.
"""

from __future__ import annotations

import argparse
import datetime
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from agent.common.errors import ConfigError, RainStormError
from agent.wire.authority import Authority, write_private
from ops.cluster.inventory import REPOSITORY, Inventory, load
from ops.machine.locks import exclusive
from ops.output.errors import describe

FOLDER = REPOSITORY / ".rainstorm"
OPERATOR = "operator"
# A certificate lasts 825 days, so it suffices to deploy every two years: one of these deploys renews it.
RENEW_BEFORE = datetime.timedelta(days=60)


def folder(cluster: str) -> Path:
    """Returns the folder of a cluster's secrets."""
    return FOLDER / cluster


def ensure(inventory: Inventory, *, renew: bool = False, check: bool = False) -> list[str]:
    """Creates what is missing or expires soon, and returns the paths relative to the cluster's folder.

    Args:
        renew: replace every certificate.
        check: only report what would be created.

    Raises:
        ConfigError: the authority's key or certificate exists without the other.
        AlreadyRunning: another command is doing this.
    """
    root = folder(inventory.cluster)
    if check:
        return _missing(inventory, root, renew)
    with exclusive(
        root / ".lock",
        f"another command writes to {root}",
        hint="wait until it has finished, then run this again",
    ):
        wanted = _missing(inventory, root, renew)
        authority = Authority(root / "ca")
        authority.create(inventory.cluster)
        for path in wanted:
            parent, name = (root / path).parent, Path(path).stem
            if path == "gossip.key":
                write_private(root / path, secrets.token_hex(32).encode() + b"\n")
            elif parent != authority.folder:
                authority.issue(name, parent)
        return wanted


def _missing(inventory: Inventory, root: Path, renew: bool) -> list[str]:
    authority = [root / "ca" / name for name in ("ca.pem", "ca.key")]
    there = [path for path in authority if path.exists()]
    if len(there) == 1:
        raise ConfigError(
            f"the authority of {inventory.cluster!r} is incomplete: {there[0]} exists without the other file",
            hint=f"restore {root / 'ca'} from a back-up; without it every certificate has to be replaced",
        )
    missing = [] if there else ["ca/ca.pem"]
    if not (root / "gossip.key").exists():
        missing.append("gossip.key")
    trust = x509.load_pem_x509_certificate(authority[0].read_bytes()) if there else None
    wanted = [f"{OPERATOR}/{OPERATOR}.pem", *(f"nodes/{name}/{name}.pem" for name in inventory.names())]
    return missing + [path for path in wanted if renew or not _good(root / path, trust)]


def _good(path: Path, trust: x509.Certificate | None) -> bool:
    if trust is None or not path.exists() or not path.with_suffix(".key").exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    ends_soon = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < RENEW_BEFORE
    return (
        not ends_soon
        and path.stem in names.get_values_for_type(x509.DNSName)
        and _signed_by(certificate, trust)
    )


def _signed_by(certificate: x509.Certificate, trust: x509.Certificate) -> bool:
    key, algorithm = trust.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser("ops.deploy.pki", description="Creates a cluster's certificates")
    parser.add_argument("--inventory", required=True, type=Path)
    parser.add_argument("--renew", action="store_true", help="replace every certificate")
    parser.add_argument("--check", action="store_true", help="only report what would be created")
    options = parser.parse_args(arguments)
    try:
        made = ensure(load(options.inventory), renew=options.renew, check=options.check)
    except RainStormError as error:
        print(describe("pki", error), file=sys.stderr)
        return error.exit_status
    print(json.dumps({"changed": bool(made), "made": made}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
