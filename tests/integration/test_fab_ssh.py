"""An operator who has only SSH: agents through channels, with a real sshd, and every kind of refusal."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    HostKeyChanged,
    HostKeyUnknown,
    RainStormError,
    SshRefused,
    SshUnreachable,
    Unreachable,
)
from agent.wire.auth import client_context
from agent.wire.client import Address, Client
from agent.wire.messages import Ping
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.cluster.route import Route
from tests.integration.cluster import NO_SPARES, Sandbox
from tests.leaks import adopt
from tests.support import PATIENCE_S, wait_until

SSHD = Path("/usr/sbin/sshd")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not SSHD.exists(), reason="needs openssh-server: apt-get install openssh-server"),
]
# The addresses are the cluster's own, so any port without an agent will do.
SSH_PORT = 2222
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of two nodes whose machines have an sshd."""

    sandbox: Sandbox
    folder: Path
    port: int

    def inventory(self, name: str, **variables: Any) -> Path:
        """Writes an inventory that leads to the nodes through SSH, with other variables if wanted."""
        raw = yaml.safe_load(self.sandbox.cluster.layout.inventory_path.read_text())
        everything = raw["all"]["vars"]
        del everything["ansible_connection"]
        everything |= {
            "rainstorm_via": "ssh",
            "ansible_user": getpass.getuser(),
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.folder / "user"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.folder}/known_hosts",
            **variables,
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(raw))
        return path


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ssh")
    sandbox = Sandbox(folder, **NO_SPARES)
    adopt(request, sandbox.folder)
    made = os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if made:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    daemon = None
    try:
        addresses = [peer.address for peer in sandbox.cluster.up(2)]
        daemon = _start_sshd(folder, addresses, SSH_PORT)
        yield Site(sandbox, folder, SSH_PORT)
    finally:
        if daemon is not None:
            daemon.kill()
            daemon.wait(PATIENCE_S)
        sandbox.cluster.down()
        if made:
            PRIVILEGE_SEPARATION.rmdir()


def _start_sshd(folder: Path, addresses: list[str], port: int) -> subprocess.Popen[bytes]:
    for name in ("host", "user", "wrong"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    wrong = " ".join((folder / "wrong.pub").read_text().split()[:2])
    for name, shown in (("known_hosts", key), ("other_known_hosts", wrong)):
        (folder / name).write_text("".join(f"[{address}]:{port} {shown}\n" for address in addresses))
    lines = [
        f"Port {port}",
        *(f"ListenAddress {address}" for address in addresses),
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/user.pub",
        f"PidFile {folder}/pid",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin yes",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with open(folder / "sshd.log", "wb") as log:
        daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    wait_until(lambda: b"listening" in (folder / "sshd.log").read_bytes(), PATIENCE_S, "sshd listens")
    return daemon


def test_commands_need_nothing_but_ssh(site: Site, tmp_path: Path) -> None:
    path = str(site.inventory("by-ssh"))
    ended = site.sandbox.fab("status", "--json", "--inventory", path)
    assert ended.status == 0, ended
    assert ended.err == ""
    content = os.urandom(3 * 1024 * 1024 + 1)  # more than a channel's window, both ways
    (tmp_path / "in").write_bytes(content)
    for words in (["put", f"{tmp_path}/in", "by/ssh"], ["get", "by/ssh", f"{tmp_path}/out"]):
        ended = site.sandbox.fab(*words, "--inventory", path)
        assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "out").read_bytes() == content
    assert b"Accepted publickey" in (site.folder / "sshd.log").read_bytes()


@pytest.mark.parametrize(
    ("variables", "error", "next_step"),
    [
        ({"ansible_ssh_private_key_file": "{folder}/wrong"}, SshRefused, "next: see why: ssh -i"),
        ({"ansible_ssh_common_args": "-o UserKnownHostsFile=/none"}, HostKeyUnknown, "ssh-keyscan -p"),
        (
            {"ansible_ssh_common_args": "-o UserKnownHostsFile={folder}/other_known_hosts"},
            HostKeyChanged,
            "ssh-keygen -f",
        ),
        ({"ansible_port": 1}, SshUnreachable, "is it up? try: ssh"),
    ],
)
def test_each_refusal_has_its_name_and_next_step(
    site: Site, variables: dict[str, Any], error: type[RainStormError], next_step: str
) -> None:
    filled = {
        key: value.format(folder=site.folder) if isinstance(value, str) else value
        for key, value in variables.items()
    }
    path = site.inventory(error.code, **filled)
    ended = site.sandbox.fab("list", "--inventory", str(path))
    assert ended.status == 3
    lines = ended.err.splitlines()
    assert len(lines) == 3, ended.err
    assert lines[0].startswith(f"list failed [{error.code}]: vm1 (")
    assert next_step in lines[2]


def test_commands_on_a_machine(site: Site) -> None:
    with connected(inventory.load(site.inventory("by-ssh"))) as connections:
        done = connections.ssh.run("vm2", ["sh", "-c", "echo out; echo 'it is' >&2; exit 7"])
        assert (done.status, done.out, done.err) == (7, "out\n", "it is\n")
        with pytest.raises(DeadlineExceeded, match="vm2"):
            connections.ssh.run("vm2", ["sleep", "60"], timeout_s=0.2)
        with pytest.raises(ConnectionLost, match="no exit status"):
            connections.ssh.run("vm2", ["sh", "-c", "kill -9 $PPID"])  # its own shell's sshd
        assert connections.ssh.run("vm2", ["true"]).status == 0  # another session


def test_auto_takes_ssh_only_when_no_port_is_open(site: Site) -> None:
    # Open ports: SSH is never tried (there would be no answer).
    path = site.inventory("auto-direct", rainstorm_via="auto", ansible_port=1)
    with connected(inventory.load(path)) as connections:
        assert connections.ping("vm1", "hydfs") is None
    # Closed ports: by SSH, from then on without a try.
    blocked = _Blocked()
    reachable = inventory.load(site.inventory("auto", rainstorm_via="auto"))
    with contextlib.closing(Route("auto", reachable.logins, blocked)) as way:
        client = Client(client_context(reachable.tls), dial=way.dial, connect_timeout_s=way.connect_timeout_s)
        with contextlib.closing(client):
            for node in ("vm1", "vm2"):
                peer = reachable.node(node)
                client.ask(Address(peer.address, peer.hydfs_port, node), Ping())
    assert blocked.tries == 1
    # Neither way: both reasons.
    with contextlib.closing(Route("auto", inventory.load(path).logins, blocked)) as way:
        with pytest.raises(SshUnreachable, match="directly: no answer; vm1") as caught:
            way.open(Address("127.0.0.1", 1, "vm1"))
        assert "ssh" in caught.value.hint


class _Blocked:
    """A firewall that drops everything but SSH."""

    def __init__(self) -> None:
        self.tries = 0

    def __call__(self, address: Address, timeout_s: float) -> socket.socket:
        self.tries += 1
        raise TimeoutError


def test_a_dead_agent_behind_ssh_is_an_unreachable_agent(site: Site) -> None:
    path = site.inventory("dead")
    raw = yaml.safe_load(path.read_text())
    raw["all"]["hosts"]["vm1"]["hydfs_port"] = 1
    path.write_text(yaml.safe_dump(raw))
    connections = Connections(inventory.load(path))
    try:
        failure = connections.ping("vm1", "hydfs")
        assert type(failure) is Unreachable
        assert connections.gateway("hydfs") == "vm2"
    finally:
        connections.close()
