"""One VM of the lab: its files, its mounts, its container.

    <lab>/vm3/upper, work   the VM's changes to the base image
    <lab>/vm3/root          both, mounted as one (overlayfs)
    <lab>/vm3/data.img      its data disk: a sparse file with an ext4 of bounded size
    <lab>/vm3/data          the data disk, mounted; in the VM it is /var/lib/rainstorm
    <lab>/vm3/console.log   what the VM printed while it booted

The container shares this machine's kernel but nothing else: not its network, processes, user sessions or
folders. It runs in its own control group (``ops.machine.cgroups``).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from ops.lab import base, host, keys
from ops.lab.plan import USER, Plan
from ops.machine.cgroups import Group

DATA_FOLDER = "/var/lib/rainstorm"
DISK_MIB = 4096
# The shell joins the control groups before nspawn starts. It ends immediately, so that the VM, like a
# machine, has no parent that could wait for it.
LAUNCH = """
for group in $GROUPS_TO_JOIN; do echo 0 >"$group" || exit 1; done
exec setsid --fork systemd-nspawn "$@" </dev/null >"$CONSOLE" 2>&1
"""


class Machine:
    """One VM."""

    def __init__(self, plan: Plan, vm: str, lab_folder: Path) -> None:
        self.vm = vm
        self.group = Group(plan.name, vm)
        self._plan = plan
        self._folder = lab_folder / vm
        self._root = self._folder / "root"
        self._data = self._folder / "data"

    def create(self, image: Path, disk: Path, public_key: str) -> str:
        """Creates the files of a new VM; returns the public key of its sshd."""
        for name in ("upper", "work", "root", "data"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "upper").chmod(0o755)
        (self._folder / "image").symlink_to(image)
        host.run(["cp", "--sparse=always", str(disk), str(self._folder / "data.img")])
        self.mount()
        (self._data / "lost+found").rmdir()
        etc = self._root / "etc"
        host_key = keys.make(etc / "ssh" / "ssh_host_ed25519_key")
        (etc / "hostname").write_text(f"{self.vm}\n", "ascii")
        # The same during the whole life of the VM, and another one in the next lab.
        machine_id = etc / "machine-id"
        machine_id.unlink()
        machine_id.write_text(f"{uuid.uuid4().hex}\n", "ascii")
        lines = ["127.0.0.1 localhost"]
        lines += [f"{self._plan.address(name)} {name}" for name in self._plan.names()]
        (etc / "hosts").write_text("\n".join(lines) + "\n", "ascii")
        (etc / "systemd" / "network" / "10-host0.network").write_text(
            f"[Match]\nName=host0\n[Network]\nAddress={self._plan.address(self.vm)}/24\n"
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
            "ascii",
        )
        home = self._root / "home" / USER
        owner = home.stat()
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "authorized_keys").write_text(f"{public_key} rainstorm-lab\n", "ascii")
        for path in (ssh, ssh / "authorized_keys"):
            os.chown(path, owner.st_uid, owner.st_gid)
        return host_key

    def mount(self) -> None:
        """Mounts the VM's root and data disk."""
        layers = {"lowerdir": (self._folder / "image").resolve()}
        layers.update({"upperdir": self._folder / "upper", "workdir": self._folder / "work"})
        options = ",".join(f"{name}={path}" for name, path in layers.items())
        mounted = host.mounts_below(self._folder)
        if str(self._root) not in mounted:
            host.run(["mount", "-t", "overlay", "rainstorm-lab", "-o", options, str(self._root)])
        if str(self._data) not in mounted:
            host.run(["mount", "-o", "loop,noatime", str(self._folder / "data.img"), str(self._data)])

    def start(self) -> None:
        """Boots the VM, whose sshd answers some seconds later."""
        self.mount()
        groups = self.group.make()
        plan = self._plan
        arguments = [
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--kill-signal=SIGRTMIN+3",
            f"--network-bridge={plan.bridge}",
            f"--machine={plan.machine(self.vm)}",
            f"--hostname={self.vm}",
            f"--directory={self._root}",
            f"--bind={self._data}:{DATA_FOLDER}",
            base.INIT_PATH,
        ]
        console = self._folder / "console.log"
        host.run(
            ["/bin/sh", "-c", LAUNCH, "rainstorm-lab", *arguments],
            variables={"GROUPS_TO_JOIN": " ".join(groups), "CONSOLE": str(console)},
        )

    def is_up(self) -> bool:
        """Tells whether any process of the VM is alive."""
        return bool(self.group.processes())

    def has_booted(self) -> bool:
        """Tells whether the VM accepts logins of ordinary users."""
        first = self.group.first_process()
        if first is None:
            return False
        with contextlib.suppress(OSError):
            root = Path(f"/proc/{first}/root")
            # systemd-user-sessions.service removes the file at the end of the boot
            return (root / "run/dbus").exists() and not (root / "run/nologin").exists()
        return False

    def power_off(self) -> int:
        """Cuts the power by killing every process; returns how many there were. The disks stay."""
        killed = self.group.kill()
        self.group.remove()
        return killed

    def console(self, lines: int = 15) -> str:
        """Returns the last lines that the VM printed while booting."""
        with contextlib.suppress(FileNotFoundError):
            text = (self._folder / "console.log").read_text("utf-8", "replace")
            return "\n".join(f"    {self.vm}: {line}" for line in text.splitlines()[-lines:])
        return f"    {self.vm}: (it printed nothing)"
