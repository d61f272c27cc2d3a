"""The files of a membership agent: the node's identity, its ring of gossip keys, the voters.

The identity is a UUID for the disk and a boot counter. The node id ``<uuid>:<boot>`` names one boot of a
node. The counter is raised durably before the agent sends anything, so no two boots share an id, and promises
to an earlier boot are known to be void.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.common import message
from agent.common.errors import ConfigError, Corrupt, DiskFailed, InvalidMessage, UsageError
from agent.common.shell import disk, threads
from agent.membership.core.dissemination.keyring import KeyRing, parse
from agent.membership.view import NodeName

logger = logging.getLogger("agent.membership.shell.store")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a node during one boot: the content of its file."""

    uuid: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    boot: Annotated[int, Meta(ge=1, lt=10**18)]


@dataclass(frozen=True, slots=True)
class StoredVoters:
    """The names in the file of the voters."""

    names: tuple[NodeName, ...]


class IdentityStore:
    """The file that holds the identity."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin_life(self) -> Identity:
        """Returns the identity of a new boot, after making it durable.

        Raises:
            Corrupt: the file is there but holds no identity.
            DiskFull, DiskFailed: it cannot be written.
        """
        before = self._read()
        fresh = Identity(before.uuid, before.boot + 1) if before else Identity(threads.unique_id(), 1)
        self.write(fresh)
        return fresh

    def write(self, identity: Identity) -> None:
        """Stores an identity durably, replacing the earlier one."""
        _replace(self._path, json.dumps({"uuid": identity.uuid, "boot": identity.boot}))

    def _read(self) -> Identity | None:
        try:
            return message.decode(Identity, _parsed(disk.read_text(self._path)), "identity")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskFailed(f"the node's identity {self._path} cannot be read: {error}") from error
        except (ValueError, InvalidMessage) as error:
            raise Corrupt(
                f"{self._path} does not hold a node's identity: {error}",
                hint="remove it: the node then joins as a new one and its data is copied again",
            ) from None


class KeyStore:
    """The file with this node's key ring: each line is one key in hexadecimal digits, the primary first.

    Until the first rotation there is no such file, and the configured key is the whole ring. After it the
    configured key does not count: it may be the one that was removed.
    """

    def __init__(self, path: Path, configured: Path) -> None:
        self._path = path
        self._configured = configured

    def load(self) -> KeyRing:
        """Returns the ring.

        Raises:
            ConfigError: a file is missing or does not hold keys.
        """
        path = self._path if disk.exists(self._path) else self._configured
        try:
            keys = tuple([parse(line) for line in disk.read_text(path, "ascii").split()])
        except (OSError, ValueError, UsageError) as error:
            raise ConfigError(
                f"the gossip key {path} cannot be used: {error}", hint="make one with: openssl rand -hex 32"
            ) from None
        if not keys:
            raise ConfigError(f"the gossip key {path} is empty", hint="make one with: openssl rand -hex 32")
        return KeyRing(keys)

    def save(self, ring: KeyRing) -> None:
        """Stores the ring durably, readable only by its owner, replacing the earlier one."""
        _replace(self._path, "".join(f"{key.hex()}\n" for key in ring.keys))


class VoterStore:
    """The file with the names of the voters, once they differ from the configured ones.

    It only tells the agent which nodes to ask first: the view itself names the voters. Without the file, a
    node whose configured voters are all gone would ask no other node.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[str, ...] = ()

    def load(self, configured: Container[str]) -> tuple[str, ...]:
        """Returns the names, or none when the file names a node that is not ``configured``."""
        self._known = ()
        try:
            found = message.decode(StoredVoters, {"names": _parsed(disk.read_text(self._path))}, "voters")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, InvalidMessage) as error:
            logger.warning("voters_not_read path=%s error=%s", self._path, error)
            return ()
        unknown = [name for name in found.names if name not in configured]
        if unknown:
            logger.warning("voters_not_configured path=%s names=%s", self._path, ",".join(unknown))
            return ()
        self._known = found.names
        return self._known

    def save(self, names: Sequence[str]) -> None:
        """Stores the names durably when they are new."""
        if tuple(names) != self._known:
            _replace(self._path, json.dumps(list(names)))
            self._known = tuple(names)


def _parsed(text: str) -> object:
    """Returns the value of a JSON text; ValueError when it is not JSON, or nested too deeply."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _replace(path: Path, text: str) -> None:
    try:
        disk.make_folder_durably(path.parent)
        disk.write_durably(path, text.encode())
    except OSError as error:
        raise disk.failure(error, f"the node's own file {path} cannot be written") from error
