"""SSH logins from Ansible's variables."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import ConfigError
from ops.cluster.sshlogin import default_known_hosts, parse

PATH = Path("/somewhere/inventory/vms")


def test_without_variables_it_is_what_ssh_would_do() -> None:
    found = parse(PATH, "vm1", {})
    assert (found.host, found.port, found.user, found.key) == ("vm1", 22, getpass.getuser(), None)
    assert found.known_hosts == default_known_hosts()
    assert found.command() == f"ssh {getpass.getuser()}@vm1"


def test_all_variables() -> None:
    found = parse(
        PATH,
        "vm1",
        {
            "ansible_host": "10.0.0.1",
            "ansible_port": 2222,
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": "~/keys/one",
            "ansible_ssh_common_args": "-o 'UserKnownHostsFile={{ inventory_dir }}/known /etc/more' -p 9 "
            "-o IdentitiesOnly=yes",
        },
    )
    assert (found.host, found.port, found.user) == ("10.0.0.1", 2222, "ops")
    assert found.key == os.path.expanduser("~/keys/one")
    assert found.known_hosts == ("/somewhere/inventory/known", "/etc/more")
    assert not found.others
    assert found.command().startswith(f"ssh -i {found.key} -p 2222 -o ")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ansible_port": "22x"}, "ansible_port"),
        ({"ansible_ssh_common_args": "-J bastion"}, "proxyjump bastion"),
        ({"ansible_ssh_common_args": "-o ProxyJump=bastion"}, "proxyjump bastion"),
        ({"ansible_ssh_extra_args": "-oProxyCommand='nc %h'"}, "proxycommand nc %h"),
        ({"ansible_ssh_common_args": "-o 'open"}, "quot"),
    ],
)
def test_what_cannot_be_done_is_refused(variables: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(PATH, "vm1", variables)
