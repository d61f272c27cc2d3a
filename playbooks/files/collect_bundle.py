"""Writes a support bundle of this VM and prints its path: events and current state, no keys, no data.

    python3 collect_bundle.py NODE SINCE

If something cannot be collected, the bundle says so and it is not an error: bundles are needed from VMs in
trouble.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time

# One stalled command must not prevent the bundle of a VM in trouble.
COMMAND_TIMEOUT_S = 60
LOG_BYTES_MAX = 64 * 2**20
COMMANDS = {
    "journal.log": "journalctl --no-pager --output=short-iso-precise --unit=rainstorm* --since {since}",
    "kernel.log": "journalctl --no-pager --dmesg --since {since}",
    "units.txt": "systemctl --no-pager --full status rainstorm.target rainstorm-*",
    "unit-files.txt": "systemctl --no-pager cat rainstorm-*",
    "properties.txt": "systemctl --no-pager show rainstorm-*",
    "processes.txt": "ps -eo pid,ppid,user,lstart,stat,nlwp,rss,pcpu,args --forest",
    "sockets.txt": "ss -tuxanp",
    "disks.txt": "df -h",
    "inodes.txt": "df -i",
    "memory.txt": "free -m",
    "addresses.txt": "ip -brief address",
    "clock.txt": "timedatectl",
    "files.txt": "find /var/lib/rainstorm /var/log/rainstorm /run/rainstorm /opt/rainstorm -maxdepth 2"
    " -printf %M\\040%u:%g\\040%s\\040%TY-%Tm-%TdT%TT\\040%p\\040%l\\n",
}
FILES = ("/etc/rainstorm/node.yml", "/etc/os-release")
LOGS = "/var/log/rainstorm"


def add(tar, name, content):
    """Adds a file to the bundle."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), time.time(), 0o600
    tar.addfile(entry, io.BytesIO(content))


def output(command, since):
    """Returns what a command printed, or why it could not be run."""
    words = [word.replace("{since}", since).replace("\\040", " ") for word in command.split()]
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        return (f"could not be collected: {error}\n").encode()
    return done.stdout


def main():
    """Runs the command line."""
    node, since = sys.argv[1:]
    handle, path = tempfile.mkstemp(prefix="rainstorm-bundle-", suffix=".tar.gz")
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as tar:
        for name, command in COMMANDS.items():
            add(tar, f"{node}/{name}", output(command, since))
        logs = [os.path.join(LOGS, name) for name in sorted(os.listdir(LOGS))] if os.path.isdir(LOGS) else []
        for source in [*FILES, *logs]:
            if os.path.isfile(source) and not os.path.islink(source):
                with open(source, "rb") as log:
                    log.seek(max(0, os.path.getsize(source) - LOG_BYTES_MAX))
                    add(tar, node + source, log.read(LOG_BYTES_MAX))
    print(path)


if __name__ == "__main__":
    main()
