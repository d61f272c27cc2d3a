"""The base image: Debian as cloud providers ship it, built once by debootstrap and kept in a cache.

The cache is keyed by a hash of the recipe below, so a changed recipe causes a new build. The image is built
in a temporary folder, which is renamed when it is complete, so that an interrupted build is never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from agent.common.errors import Unavailable
from agent.common.shell import clock
from ops.lab import host
from ops.lab.plan import USER
from ops.machine.locks import exclusive
from ops.output import render

CACHE = Path("/var/cache/rainstorm-lab")
SUITE = "bookworm"
BUILD_TIMEOUT_S = 900.0
# A build ends with the command that runs it, and so do its children and mounts: nothing disturbs the next
# build.
ENCLOSED = "setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child".split()
# What Debian's cloud images contain and the minimal variant lacks. They have no python3-venv either.
PACKAGES = (
    "ca-certificates dbus iproute2 iptables iputils-ping kmod less libpam-systemd netbase openssh-server "
    "procps python3 sudo systemd systemd-sysv"
).split()
# Units that would use the internet or a screen.
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer console-getty.service "
    "systemd-networkd-wait-online.service"
).split()
# nspawn mounts the controllers of control groups (version 1) read-only, which disables MemoryMax=, TasksMax=
# and CPUQuota= of units. The VM may write to its own groups.
INIT_PATH = "/usr/local/sbin/rainstorm-lab-init"
INIT = """#!/bin/sh
for controller in memory pids cpu cpuacct blkio; do
    if [ -e /sys/fs/cgroup/$controller/tasks ]; then
        mount -o remount,bind,rw,nosuid,nodev,noexec /sys/fs/cgroup/$controller
    fi
done
exec /lib/systemd/systemd
"""
FILES = {
    INIT_PATH: (0o755, INIT),
    f"/etc/sudoers.d/90-{USER}": (0o440, f"{USER} ALL=(ALL) NOPASSWD:ALL\n"),
    "/etc/ssh/sshd_config.d/10-lab.conf": (0o644, "PasswordAuthentication no\nUseDNS no\n"),
    # Nothing is generated at boot, and nothing is inherited from the host.
    "/etc/machine-id": (0o444, ""),
    "/etc/hostname": (0o644, "vm\n"),
    "/etc/resolv.conf": (0o644, ""),
}
COMMANDS = (
    f"useradd --create-home --shell /bin/bash {USER}",
    "systemctl enable systemd-networkd ssh",
    f"systemctl mask {' '.join(MASKED)}",
    "rm -f /etc/ssh/ssh_host_*",
    "apt-get clean",
    "rm -rf /var/lib/apt/lists/* /var/log/bootstrap.log",
    "mkdir -p /var/log/journal /var/lib/rainstorm",
)


def recipe_hash() -> str:
    """Returns a short hash of everything that determines the image."""
    recipe = json.dumps([SUITE, PACKAGES, MASKED, FILES, COMMANDS], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def path() -> Path:
    """Returns the path of the image of this recipe."""
    return CACHE / f"base-{recipe_hash()}"


def ensure() -> Path:
    """Returns the image, which is built if it does not exist.

    Raises:
        AlreadyRunning: another command is building it.
        Unavailable: debootstrap or a step after it failed.
    """
    if not path().exists():
        with exclusive(CACHE / "lock", "another command is building the base image", "wait until it ends"):
            if not path().exists():
                _clear_unfinished()
                _build()
    return path()


def purge() -> None:
    """Removes the whole cache, unless a lab uses it."""
    for folder in sorted(CACHE.glob("base-*")):
        if not _in_use(folder):
            host.remove_tree(folder)
    if CACHE.exists() and not any(CACHE.glob("base-*")):
        shutil.rmtree(CACHE)


def _clear_unfinished() -> None:
    for folder in CACHE.glob("base-*"):
        if not _in_use(folder):
            host.remove_tree(folder)  # incomplete, or from an older recipe


def _in_use(folder: Path) -> bool:
    return f"lowerdir={folder}" in host.MOUNTS.read_text("utf-8")


def _build() -> None:
    render.say(f"building the base image (once, a minute or two): debootstrap {SUITE}")
    begun = clock.monotonic()
    unfinished = path().with_suffix(".unfinished")
    _step(
        ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(unfinished)],
        "can this machine reach Debian's archive? see /etc/apt/sources.list",
    )
    for name, (mode, content) in FILES.items():
        file = unfinished / name[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(content, "utf-8")
        file.chmod(mode)
    for command in COMMANDS:
        _step(["chroot", str(unfinished), "/bin/sh", "-c", command], "fab lab.up starts a new build")
    unfinished.rename(path())
    render.say(f"the base image is ready after {clock.monotonic() - begun:.0f} s: {path()}")


def _step(arguments: list[str], hint: str) -> None:
    try:
        done = subprocess.run(
            [*ENCLOSED, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            env={"PATH": host.SEARCH_PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"the base image could not be built: {arguments[0]} took more than {BUILD_TIMEOUT_S:g} s",
            hint=hint,
        ) from None
    if done.returncode:
        last = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-8:])
        raise Unavailable(f"the base image could not be built: {arguments[0]} failed\n{last}", hint=hint)
