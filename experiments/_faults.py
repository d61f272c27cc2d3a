"""Packets that get lost between a cluster's loopback addresses: rules of iptables, in a chain of its own.

The chain's name holds the process that made it, so that one left behind by a killed experiment is known and
removed by the next one. Rules match the source and the target address, datagrams and TCP alike; the agents
connect from their own addresses. Needs root.
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
# Another command may hold the lock of the tables.
LOCK_WAIT_S = "5"
COMMAND_TIMEOUT_S = 15.0

Path = tuple[str, str]


class Faults:
    """The lost packets of one experiment; none is lost any more when it ends."""

    def __init__(self, slot: int = 0) -> None:
        self._chain = f"{PREFIX}{os.getpid()}-{slot}"

    def __enter__(self) -> Faults:
        """Puts an empty chain in place.

        Raises:
            UsageError: this is not root, or there is no iptables.
        """
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            raise UsageError(
                "losing packets between addresses needs root and iptables",
                hint="run it again with sudo; fab fault.loss breaks a cluster of the lab",
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
        """Loses this share of what goes from the first to the second address of each path, from now on."""
        chance = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}"] if share < 1 else []
        lines = [
            " ".join(["-A", self._chain, "-s", source, "-d", target, *chance, "-j", "DROP"])
            for source, target in paths
        ]
        # All rules at once: a fault begins at one moment.
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        _run(["iptables-restore", "--noflush", "--wait", LOCK_WAIT_S], text)

    def heal(self) -> None:
        """Lets everything through again."""
        _iptables("-F", self._chain)


def remove_stale() -> None:
    """Removes the chains of experiments that run no more."""
    for chain in re.findall(rf"^-N ({PREFIX}\S+)$", _iptables("-S"), re.MULTILINE):
        owner = re.match(rf"{PREFIX}(\d+)-", chain)
        if owner is None or not psutil.pid_exists(int(owner[1])):
            remove(chain)


def remove(chain: str) -> None:
    """Removes a chain and whatever leads to it."""
    rules = _iptables("-S", "INPUT").splitlines()
    for rule in rules:
        if rule.endswith(f"-j {chain}"):
            _iptables(*rule.replace("-A", "-D", 1).split())
    _iptables("-F", chain)
    _iptables("-X", chain)


def _iptables(*words: str) -> str:
    return _run(["iptables", "--wait", LOCK_WAIT_S, *words])


def _run(command: list[str], text: str = "") -> str:
    # In a session of its own: an interrupt is for the experiment, which then cleans up with these commands.
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
