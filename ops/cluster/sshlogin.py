"""How to log in to a machine by SSH, according to Ansible's own variables in the inventory.

Supported are ``ansible_host``, ``ansible_port``, ``ansible_user``, ``ansible_ssh_private_key_file`` and, in
``ansible_ssh_common_args``, ``-o UserKnownHostsFile=FILE`` and ``-o IdentitiesOnly=yes``. Host keys are
always checked, whatever ``StrictHostKeyChecking`` says. Options for another route (a jump host, a proxy) are
rejected instead of ignored.
"""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.common.errors import ConfigError

PORT = 22
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
OTHER_WAYS = ("proxycommand", "proxyjump")
# Options of ssh whose value is the next word.
WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to one machine; ``key`` is None for the keys of ~/.ssh and of the SSH agent."""

    node: str
    host: str
    port: int
    user: str
    key: str | None
    known_hosts: tuple[str, ...]
    # Whether the keys in an SSH agent may be tried as well.
    others: bool = True

    def command(self) -> str:
        """Returns the equivalent ``ssh`` command."""
        words = ["ssh"]
        if self.key:
            words += ["-i", self.key]
        if self.port != PORT:
            words += ["-p", str(self.port)]
        if self.known_hosts != default_known_hosts():
            words += ["-o", f"UserKnownHostsFile={' '.join(self.known_hosts)}"]
        return shlex.join([*words, f"{self.user}@{self.host}"])


def default_known_hosts() -> tuple[str, ...]:
    """Returns the files that OpenSSH uses by default."""
    return tuple(os.path.expanduser(path) for path in KNOWN_HOSTS)


def parse(path: Path, node: str, variables: Mapping[str, Any]) -> Login:
    """Returns how to log in to ``node``, given its variables in the inventory ``path``.

    Raises:
        ConfigError: a variable cannot be used.
    """
    port = variables.get("ansible_port", PORT)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ConfigError(
            f"{path}: ansible_port of {node} is not a port: {port!r}", hint="use a number from 1 to 65535"
        )
    key = variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file")
    arguments = " ".join(
        _filled(path, str(variables.get(name, "")))
        for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args")
    )
    known_hosts, others = _options_used(path, node, arguments)
    return Login(
        node=node,
        host=str(variables.get("ansible_host", node)),
        port=port,
        user=str(variables.get("ansible_user") or getpass.getuser()),
        key=os.path.expanduser(_filled(path, str(key))) if key else None,
        known_hosts=known_hosts,
        others=others,
    )


def _options_used(path: Path, node: str, arguments: str) -> tuple[tuple[str, ...], bool]:
    found, others = default_known_hosts(), True
    for name, value in _options(path, node, arguments):
        if name in OTHER_WAYS:
            raise ConfigError(
                f"{path}: the ssh arguments of {node} go through another machine ({name} {value}), "
                "which fab does not support",
                hint="run fab on that machine, or open the agents' ports and write 'rainstorm_via: direct'",
            )
        if name == "userknownhostsfile":
            found = tuple(os.path.expanduser(each) for each in value.split())
        if name == "identitiesonly":
            others = value.lower() != "yes"
    return found, others


def _options(path: Path, node: str, arguments: str) -> list[tuple[str, str]]:
    """Returns the ``-o`` options of a line of ``ssh`` arguments, names in lower case."""
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise ConfigError(f"{path}: the ssh arguments of {node}: {error}", hint="close the quotes") from None
    found: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or len(word) < 2 or word[1] not in WITH_VALUE:
            continue
        value = word[2:] or next(rest, "")
        if word[1] == "J":
            found.append(("proxyjump", value))
        elif word[1] == "o":
            name, _, setting = value.replace("=", " ", 1).strip().partition(" ")
            found.append((name.lower(), setting.strip()))
    return found


def _filled(inventory: Path, value: str) -> str:
    """Returns a value after replacing the one template that inventories use in paths."""
    for name in ("{{ inventory_dir }}", "{{inventory_dir}}"):
        value = value.replace(name, str(inventory.parent.absolute()))
    return value
