"""Drops packets between a cluster's loopback addresses with iptables rules in a separate chain.

The chain's name contains the id of the process that created it, so that the next experiment recognises and
removes a chain left behind by a killed one. Rules match source and destination address, for datagrams and TCP
alike; the agents connect from their own addresses. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from types import TracebackType

import psutil

from agent.common.errors import Unavailable, UsageError

PREFIX = "RS-EXP-"
# Another command may hold the lock on the tables.
LOCK_WAIT_S = "5"
COMMAND_TIMEOUT_S = 15.0

Path = tuple[str, str]


class Faults:
    """The packet loss of one experiment, which ends with it."""

    def __init__(self, slot: int = 0) -> None:
        self._chain = f"{PREFIX}{os.getpid()}-{slot}"

    def __enter__(self) -> Faults:
        """Adds an empty chain.

        Raises:
            UsageError: this is not root, or there is no iptables.
        """
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            raise UsageError(
                "dropping packets between addresses needs root and iptables",
                hint="run it again with sudo (for a lab: fab fault.loss)",
            )
        remove_stale()
        _iptables("-N", self._chain)
        try:
            _iptables("-I", "INPUT", "-i", "lo", "-j", self._chain)
        except BaseException:
            remove(self._chain)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove(self._chain)

    def lose(self, paths: Iterable[Path], share: float) -> None:
        """From now on, drops this share of the packets from the first to the second address of each path."""
        chance = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}"] if share < 1 else []
        lines = [
            " ".join(["-A", self._chain, "-s", source, "-d", target, *chance, "-j", "DROP"])
            for source, target in paths
        ]
        # All rules at once, so that the fault begins at one moment.
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        _run(["iptables-restore", "--noflush", "--wait", LOCK_WAIT_S], text)

    def heal(self) -> None:
        """Stops dropping packets."""
        _iptables("-F", self._chain)


def remove_stale() -> None:
    """Removes the chains of experiments that are no longer running."""
    for chain in re.findall(rf"^-N ({PREFIX}\S+)$", _iptables("-S"), re.MULTILINE):
        owner = re.match(rf"{PREFIX}(\d+)-", chain)
        if owner is None or not psutil.pid_exists(int(owner[1])):
            remove(chain)


def remove(chain: str) -> None:
    """Removes a chain and the rules that jump to it."""
    rules = _iptables("-S", "INPUT").splitlines()
    for rule in rules:
        if rule.endswith(f"-j {chain}"):
            _iptables(*rule.replace("-A", "-D", 1).split())
    _iptables("-F", chain)
    _iptables("-X", chain)


def _iptables(*words: str) -> str:
    return _run(["iptables", "--wait", LOCK_WAIT_S, *words])


def _run(command: list[str], text: str = "") -> str:
    # In a separate session: an interrupt must reach only the experiment, which cleans up with these commands.
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}", hint="iptables -S")
    return done.stdout
