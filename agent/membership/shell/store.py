"""What a membership agent keeps on disk: who the node is, its ring of gossip keys, the voters.

The identity is a UUID for the disk and a counter of boots.

The node id ``<uuid>:<boot>`` names one life of a node. The counter is raised and made durable before the
agent says a word, so no two lives share an id, and whatever was promised to an earlier life is known to be
over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.common.errors import ConfigError, Corrupt, DiskFailed, UsageError
from agent.common.shell import disk, threads
from agent.membership.core.dissemination.keyring import KeyRing, parse


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of one life of a node."""

    uuid: str
    boot: int


class IdentityStore:
    """The file that holds the identity."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin_life(self) -> Identity:
        """Returns the identity of a new life, which is durable by then.

        Raises:
            Corrupt: the file is there but holds no identity.
            DiskFull, DiskFailed: it cannot be written.
        """
        before = self._read()
        fresh = Identity(before.uuid, before.boot + 1) if before else Identity(threads.unique_id(), 1)
        self.write(fresh)
        return fresh

    def write(self, identity: Identity) -> None:
        """Stores an identity durably, in place of the earlier one."""
        _replace(self._path, json.dumps({"uuid": identity.uuid, "boot": identity.boot}))

    def _read(self) -> Identity | None:
        try:
            found = json.loads(disk.read_text(self._path))
            identity = Identity(str(found["uuid"]), int(found["boot"]))
            if len(bytes.fromhex(identity.uuid)) != 16 or identity.boot < 1:
                raise ValueError("out of range")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskFailed(f"the node's identity {self._path} cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"{self._path} does not hold a node's identity: {error}",
                hint="remove it: the node then joins as a new one and its data is copied again",
            ) from None
        return identity


class KeyStore:
    """The file with this node's key ring: one key in hexadecimal digits a line, the primary first.

    Until the first rotation there is none, and the key that the node was configured with is the whole ring.
    Afterwards the configured key counts for nothing: it may be the one that was rotated out.
    """

    def __init__(self, path: Path, configured: Path) -> None:
        self._path = path
        self._configured = configured

    def load(self) -> KeyRing:
        """Returns the ring.

        Raises:
            ConfigError: a file is missing or holds something else.
        """
        path = self._path if disk.exists(self._path) else self._configured
        try:
            keys = tuple(parse(line) for line in disk.read_text(path, "ascii").split())
        except (OSError, ValueError, UsageError) as error:
            raise ConfigError(
                f"the gossip key {path} cannot be used: {error}", hint="make one with: openssl rand -hex 32"
            ) from None
        if not keys:
            raise ConfigError(f"the gossip key {path} is empty", hint="make one with: openssl rand -hex 32")
        return KeyRing(keys)

    def save(self, ring: KeyRing) -> None:
        """Stores the ring durably, readable by its owner only, in place of the earlier one."""
        _replace(self._path, "".join(f"{key.hex()}\n" for key in ring.keys))


class VoterStore:
    """The file with the names of the voters once they are no longer those of the configuration.

    Only where to ask first: the view itself says who votes. Without it a node whose configured voters are all
    gone would ask nobody else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[str, ...] = ()

    def load(self) -> tuple[str, ...]:
        """Returns the names, or none when they are not known here."""
        try:
            self._known = tuple(str(name) for name in json.loads(disk.read_text(self._path)))
        except (OSError, ValueError, TypeError):
            self._known = ()
        return self._known

    def save(self, names: Sequence[str]) -> None:
        """Stores the names durably when they are new."""
        if tuple(names) != self._known:
            _replace(self._path, json.dumps(list(names)))
            self._known = tuple(names)


def _replace(path: Path, text: str) -> None:
    try:
        disk.make_folder_durably(path.parent)
        disk.write_durably(path, text.encode())
    except OSError as error:
        raise disk.failure(error, f"the node's own file {path} cannot be written") from error
