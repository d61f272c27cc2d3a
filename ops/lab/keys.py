"""The lab's own SSH keys: one for the operator and one for each VM, created before the VM boots.

The VMs' public keys are known before anyone connects, so nothing is trusted on first use.
"""

from __future__ import annotations

from pathlib import Path


def make(path: Path) -> str:
    """Writes an Ed25519 key pair to ``path`` and ``path.pub``; returns the public key as one line."""
    # Imported here, because every fab command loads this module but few create keys.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agent.wire.authority import write_private

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_private(path, private)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")
    return public.decode("ascii")
