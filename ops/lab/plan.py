"""Names and addresses of a lab, all derived from its name and a subnet number.

Each lab has its own bridge and subnet 10.78.N.0/24, so that the lab of a test never interferes with an
operator's. vmK has the address 10.78.N.K and the host 10.78.N.254. There is no route out of the subnet.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from agent.common.errors import ConfigError, Unavailable

# Tested up to this number; each VM costs some 16 MiB, and half a second of processor time to boot.
VMS_MAX = 20
SUBNETS = 250
HOST_NUMBER = 254
USER = "debian"
# Names of other inventories, and of other folders in .rainstorm.
TAKEN_NAMES = ("local", "vms", "wheelhouse")
VOTERS_MAX = 5
INTRODUCERS_MAX = 3


def check_name(name: str) -> str:
    """Returns the name of a lab.

    Raises:
        ConfigError: it is not a valid name for a folder, a cluster and an inventory.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name in TAKEN_NAMES:
        raise ConfigError(
            f"{name!r} cannot be the name of a lab",
            hint="RAINSTORM_LAB: a lowercase letter, then up to 30 lowercase letters, digits or dashes; "
            f"not {', '.join(TAKEN_NAMES)}",
        )
    return name


@dataclass(frozen=True, slots=True)
class Plan:
    """One lab's names and addresses."""

    name: str
    subnet: int
    vms: int

    @property
    def bridge(self) -> str:
        """Returns the name of the bridge (interfaces have at most 15 characters)."""
        return f"rslab-{self.subnet}"

    @property
    def chain(self) -> str:
        """Returns the name of the host's iptables chain that isolates the lab."""
        return f"RAINSTORM-LAB-{self.subnet}"

    @property
    def host_address(self) -> str:
        """Returns the host's address on the bridge."""
        return f"10.78.{self.subnet}.{HOST_NUMBER}"

    def names(self) -> list[str]:
        """Returns the names of the VMs."""
        return [f"vm{number}" for number in range(1, self.vms + 1)]

    def address(self, vm: str) -> str:
        """Returns the address of a VM."""
        return f"10.78.{self.subnet}.{int(vm[2:])}"

    def machine(self, vm: str) -> str:
        """Returns a VM's name among all labs; its interface on the host is ``vb-`` plus this."""
        return f"{self.subnet}-{vm}"

    def inventory(self, ssh_key: str, known_hosts: str) -> dict[str, Any]:
        """Returns the content of the lab's inventory; paths are relative to the inventory's folder."""
        secrets = f"../.rainstorm/{self.name}"
        names = self.names()
        voters = VOTERS_MAX if self.vms >= VOTERS_MAX else 3 if self.vms >= 3 else 1
        return {
            "all": {
                "vars": {
                    "ansible_user": USER,
                    "ansible_ssh_private_key_file": ssh_key,
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={known_hosts} "
                    "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
                    "rainstorm_cluster": self.name,
                    "rainstorm_lab": self.name,
                    "rainstorm_operator_ca": f"{secrets}/ca/ca.pem",
                    "rainstorm_operator_certificate": f"{secrets}/operator/operator.pem",
                    "rainstorm_operator_key": f"{secrets}/operator/operator.key",
                },
                "hosts": {vm: {"ansible_host": self.address(vm)} for vm in names},
                "children": {
                    "voters": {"hosts": dict.fromkeys(names[:voters])},
                    "introducers": {"hosts": dict.fromkeys(names[:INTRODUCERS_MAX])},
                },
            }
        }


def make(name: str, vms: int, taken: Collection[int]) -> Plan:
    """Returns the plan of a new lab; ``taken`` are the subnets that this machine already uses.

    Raises:
        ConfigError: a lab cannot have that many VMs.
        Unavailable: no subnet is free.
    """
    if not 1 <= vms <= VMS_MAX:
        raise ConfigError(f"a lab has 1 to {VMS_MAX} VMs, not {vms}", hint="fab lab.up --vms 10")
    # The same name gets the same subnet again, unless that is taken.
    first = zlib.crc32(check_name(name).encode()) % SUBNETS
    for step in range(SUBNETS):
        subnet = (first + step) % SUBNETS + 1
        if subnet not in taken:
            return Plan(name, subnet, vms)
    raise Unavailable("all subnets 10.78.1.0/24 to 10.78.250.0/24 are in use here", hint="ip -br addr")
