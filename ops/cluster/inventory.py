"""Finds the cluster that a command talks to, and reads its inventory: an Ansible inventory in YAML.

A command uses ``--inventory FILE``; otherwise the variable RAINSTORM_INVENTORY; otherwise ``inventory/local``
if the local cluster is up; otherwise the lab's inventory if the lab is up; otherwise ``inventory/vms``. The
same file works with ``ansible-inventory`` and ``ansible-playbook``. A node is a host, whose variables are
``ansible_host`` and the ports. The paths of the operator's TLS files are variables of the group ``all``;
relative paths are relative to the inventory file.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agent.common.config import PeerConfig, TlsConfig
from agent.common.errors import ConfigError, NotFound, NotRunning
from ops.cluster import sshlogin
from ops.cluster.sshlogin import Login
from ops.machine import processes
from ops.machine.cgroups import Group

REPOSITORY = Path(__file__).resolve().parents[2]
# A second local cluster (of a test, of a second checkout) uses another folder and other addresses.
FOLDER_VARIABLE = "RAINSTORM_LOCAL"
ADDRESS_VARIABLE = "RAINSTORM_LOCAL_ADDRESS"
LOCAL_FOLDER = Path(os.environ.get(FOLDER_VARIABLE) or REPOSITORY / ".local").absolute()
LOCAL_INVENTORY = (
    LOCAL_FOLDER / "inventory" if os.environ.get(FOLDER_VARIABLE) else REPOSITORY / "inventory" / "local"
)
LOCAL_ADDRESS = os.environ.get(ADDRESS_VARIABLE) or "127.0.0.1"
# A second lab (of a test) uses another name, and has its own bridge, subnet and inventory.
LAB_VARIABLE = "RAINSTORM_LAB"
LAB_NAME = os.environ.get(LAB_VARIABLE) or "lab"
LAB_INVENTORY = REPOSITORY / "inventory" / LAB_NAME
VMS_INVENTORY = REPOSITORY / "inventory" / "vms"
INVENTORY_VARIABLE = "RAINSTORM_INVENTORY"
VIAS = ("auto", "direct", "ssh")
PORTS = ("membership_port", "hydfs_port", "rainstorm_port", "logs_port")


@dataclass(frozen=True, slots=True)
class Inventory:
    """The nodes of one cluster, and how the operator reaches them."""

    path: Path
    cluster: str
    peers: tuple[PeerConfig, ...]
    tls: TlsConfig
    local_folder: Path | None = None
    # How to reach the agents' ports (ops.cluster.route) and the machines; without logins, all is local.
    via: str = "direct"
    logins: Mapping[str, Login] = field(default_factory=dict)
    # The name of the lab, if these are the VMs of a lab.
    lab: str = ""

    @property
    def deployed(self) -> bool:
        """Tells whether the operator's certificate exists, which the first deployment creates."""
        return Path(self.tls.certificate).exists()

    def names(self) -> list[str]:
        """Returns the names of the nodes in the order of the file."""
        return [peer.name for peer in self.peers]

    def only(self, names: Sequence[str]) -> Inventory:
        """Returns the same cluster as if it had only these nodes.

        Raises:
            NotFound: no such node.
        """
        chosen = [self.node(name) for name in names]
        return dataclasses.replace(self, peers=tuple(peer for peer in self.peers if peer in chosen))

    @property
    def gossip_key_path(self) -> Path:
        """Returns the path, beside the authority, of the gossip key that nodes are configured with."""
        return Path(self.tls.ca).parent.parent / "gossip.key"

    def node(self, wanted: str) -> PeerConfig:
        """Returns the node that an operator names as ``3``, ``vm3`` or ``vm03``.

        Raises:
            NotFound: no such node.
        """
        for peer in self.peers:
            if peer.name == wanted:
                return peer
        number = re.fullmatch(r"(?:vm)?0*(\d+)", wanted)
        for peer in self.peers:
            if number and re.fullmatch(rf"vm0*{number[1]}", peer.name):
                return peer
        raise NotFound(
            f"the inventory {self.path} has no node {wanted!r}; it has {', '.join(self.names())}",
            hint="list the nodes: fab status",
        )


def find(given: str | None = None) -> Inventory:
    """Returns the inventory of the cluster that a command should talk to.

    Raises:
        NotRunning: no cluster was named, none is up locally, and ``inventory/vms`` was never deployed.
        ConfigError: the file cannot be used.
    """
    chosen = given or os.environ.get(INVENTORY_VARIABLE)
    if chosen:
        return load(Path(chosen))
    if LOCAL_INVENTORY.exists() and processes.marked(LOCAL_FOLDER):
        return load(LOCAL_INVENTORY)
    if LAB_INVENTORY.exists() and Group(LAB_NAME).processes():
        return load(LAB_INVENTORY)
    vms = load(VMS_INVENTORY) if VMS_INVENTORY.exists() else None
    if vms is not None and vms.deployed:
        return vms
    raise NotRunning(
        "no cluster was named, no local cluster is up, and none was deployed from here",
        hint="start one: fab local.up --nodes 5   (or name one with --inventory FILE)",
    )


def load(path: Path) -> Inventory:
    """Reads an inventory file.

    Raises:
        ConfigError: it is missing, not YAML, or lacks what a command needs.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no inventory {path}", hint="name one with --inventory FILE") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the inventory {path} cannot be read: {one_line(error)}", hint="correct the file"
        ) from None
    group = raw.get("all") if isinstance(raw, dict) else None
    if not isinstance(group, dict) or not isinstance(group.get("hosts"), dict) or not group["hosts"]:
        raise ConfigError(f"the inventory {path} lists no hosts", hint="it needs 'hosts:' under 'all:'")
    variables = group.get("vars") or {}
    folder = variables.get("rainstorm_local_folder")
    is_local = variables.get("ansible_connection") == "local"
    logins = {} if is_local else _logins(path, variables, group["hosts"])
    return Inventory(
        path=path,
        cluster=str(variables.get("rainstorm_cluster", "rainstorm")),
        peers=tuple(_peer(path, str(name), values or {}) for name, values in group["hosts"].items()),
        tls=_tls(path, variables),
        local_folder=Path(folder) if folder else None,
        via=_via(path, variables, "auto" if logins else "direct"),
        logins=logins,
        lab=str(variables.get("rainstorm_lab", "")),
    )


def one_line(error: Exception) -> str:
    """Returns the text of an error without the line breaks that YAML's errors contain."""
    return " ".join(str(error).split())


def _peer(path: Path, name: str, values: dict[str, Any]) -> PeerConfig:
    ports = {}
    for key in PORTS:
        port = values.get(key, getattr(PeerConfig("", ""), key))
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise ConfigError(
                f"{path}: {key} of {name} is not a port: {port!r}", hint="use a number from 1 to 65535"
            )
        ports[key] = port
    return PeerConfig(name=name, address=str(values.get("ansible_host", name)), **ports)


def _logins(path: Path, variables: dict[str, Any], hosts: dict[str, Any]) -> dict[str, Login]:
    return {
        str(name): sshlogin.parse(path, str(name), {**variables, **(values or {})})
        for name, values in hosts.items()
    }


def _via(path: Path, variables: dict[str, Any], default: str) -> str:
    found = str(variables.get("rainstorm_via", default))
    if found not in VIAS or (default == "direct" and found == "ssh"):
        raise ConfigError(
            f"{path}: rainstorm_via cannot be {found!r}" + (" for a local cluster" if found == "ssh" else ""),
            hint=f"write one of {', '.join(VIAS)}",
        )
    return found


def _tls(path: Path, variables: dict[str, Any]) -> TlsConfig:
    found = {}
    for key in ("ca", "certificate", "key"):
        value = variables.get(f"rainstorm_operator_{key}")
        if not value:
            raise ConfigError(
                f"{path}: 'rainstorm_operator_{key}' is missing under all/vars",
                hint="add the path of the operator's PEM file",
            )
        found[key] = str(path.parent / str(value))
    return TlsConfig(**found)


def dump(
    path: Path, cluster: str, peers: Sequence[PeerConfig], tls: TlsConfig, folder: Path, voters: Sequence[str]
) -> None:
    """Writes the inventory of a local cluster, which ``ansible-inventory`` can read too."""
    content = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "rainstorm_cluster": cluster,
                "rainstorm_local_folder": str(folder),
                "rainstorm_operator_ca": tls.ca,
                "rainstorm_operator_certificate": tls.certificate,
                "rainstorm_operator_key": tls.key,
            },
            "hosts": {
                peer.name: {
                    "ansible_host": peer.address,
                    **{key: getattr(peer, key) for key in PORTS},
                }
                for peer in peers
            },
            "children": {"voters": {"hosts": dict.fromkeys(voters, None)}},
        }
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(
        "# Written by fab local.up; removed by fab local.down --wipe.\n"
        + yaml.safe_dump(content, sort_keys=False),
        "utf-8",
    )
    fresh.replace(path)
