"""What the lab needs from the machine it runs on: root, some programs, and mounts that can be removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.common.errors import Internal, Unavailable
from ops.lab.errors import MissingTool, NeedsRoot

# The Debian package of each program that the lab calls.
PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
}
# A user's PATH may lack the folders of system programs.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_TIMEOUT_S = 60.0
MOUNTS = Path("/proc/self/mountinfo")


def require_root(what: str, command: str) -> None:
    """Raises an error unless run as root.

    Raises:
        NeedsRoot: this process does not run as root.
    """
    if os.geteuid() != 0:
        raise NeedsRoot(
            f"{what} needs root, because it creates mounts, a network bridge and containers",
            hint=f"sudo -E .venv/bin/fab {command}",
        )


def require_tools() -> None:
    """Raises an error if a program that the lab calls is missing.

    Raises:
        MissingTool: names every missing program and how to install them.
    """
    missing = [tool for tool in PACKAGES if shutil.which(tool, path=SEARCH_PATH) is None]
    if missing:
        packages = sorted({PACKAGES[tool] for tool in missing})
        raise MissingTool(
            f"the lab needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}",
        )


def run(
    arguments: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = COMMAND_TIMEOUT_S,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Runs a program of the host, without this command's environment, and returns its output.

    Raises:
        Unavailable: it failed or took longer than ``timeout_s``.
    """
    try:
        done = subprocess.run(
            list(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **(variables or {})},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{arguments[0]} did not finish within {timeout_s:g} s", hint="try again") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-400:]
        raise Unavailable(f"{' '.join(arguments)} failed: {words}", hint="fab lab.down, then try again")
    return done.stdout


def mounts_below(folder: Path) -> list[str]:
    """Returns the mount points in a folder, the innermost first."""
    found = []
    for line in MOUNTS.read_text("utf-8").splitlines():
        point = line.split()[4].encode().decode("unicode_escape")  # blanks are escaped as \040
        if point == str(folder) or point.startswith(f"{folder}/"):
            found.append(point)
    return found[::-1]


def unmount_below(folder: Path) -> int:
    """Unmounts everything in a folder; returns how many mounts there were."""
    points = mounts_below(folder)
    for point in points:
        run(["umount", point])
    return len(points)


def remove_tree(folder: Path) -> None:
    """Removes a folder, without ever entering anything that is mounted in it.

    Raises:
        Internal: something is still mounted in it.
    """
    unmount_below(folder)
    left = mounts_below(folder)
    if left:
        raise Internal(f"{left[0]} is still mounted", hint=f"umount {left[0]}   (then try again)")
    if folder.exists():
        shutil.rmtree(folder)
