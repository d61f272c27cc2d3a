"""Who this node is, on disk: a UUID for the disk and a counter of boots.

The node id ``<uuid>:<boot>`` names one life of a node. The counter is raised and made durable before the
agent says a word, so no two lives share an id, and whatever was promised to an earlier life is known to be
over.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from agent.common.errors import ConfigError, Corrupt, DiskFailed


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
            DiskFailed: it cannot be written.
        """
        before = self._read()
        fresh = Identity(before.uuid, before.boot + 1) if before else Identity(uuid.uuid4().hex, 1)
        self.write(fresh)
        return fresh

    def write(self, identity: Identity) -> None:
        """Stores an identity durably, in place of the earlier one."""
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump({"uuid": identity.uuid, "boot": identity.boot}, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(fresh, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise DiskFailed(f"the node's identity {self._path} cannot be written: {error}") from error

    def _read(self) -> Identity | None:
        try:
            found = json.loads(self._path.read_text("utf-8"))
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


def read_key(path: str) -> bytes:
    """Returns the cluster's gossip key: 32 bytes, written as 64 hexadecimal digits.

    Raises:
        ConfigError: the file is missing or holds something else.
    """
    try:
        key = bytes.fromhex(Path(path).read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the gossip key {path} cannot be used: {error}", hint="make one with: openssl rand -hex 32"
        ) from None
    if len(key) != 32:
        raise ConfigError(f"the gossip key {path} has {len(key)} bytes instead of 32")
    return key
