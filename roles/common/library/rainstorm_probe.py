#!/usr/bin/python
"""Inspects a VM: what is installed, what runs, and every reason why RainStorm cannot be installed.

One round trip instead of twenty, because with ten VMs each Ansible task costs seconds. Nothing is changed.
This must run on the oldest Python that Ansible itself supports, so that a VM whose Python is too old is told
so.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: rainstorm_probe
short_description: Inspects a VM before and after RainStorm is installed
description:
  - Returns the fact C(rainstorm) with what is installed and what runs, and with its C(problems) in words.
options:
  node: {description: the node's name in the inventory, type: str, required: true}
  cluster: {description: the cluster's name, type: str, required: true}
  voters: {description: 'the voters of the inventory, or none', type: list, elements: str, required: true}
  address: {description: the address that the agents listen on, type: str, required: true}
  ports: {description: the port of each service, type: dict, required: true}
  python: {description: the Python that the agents run on, type: str, required: true}
  python_min: {description: the oldest Python that will do, type: str, required: true}
  disk_min_mib: {description: free space that an installation needs, type: int, required: true}
  now: {description: the controller's clock in seconds, type: float, required: true}
"""

ROOT = "/opt/rainstorm"
CONFIG = "/etc/rainstorm/node.yml"
STARTED = "/run/rainstorm/%s.started"
CLOCK_TOLERANCE_S = 300.0
# Every place where a release is unpacked or the agents write.
DISKS = ("/opt", "/var/lib", "/var/log", "/etc", "/tmp")


def output(command):
    """Returns what a command prints, or nothing if it cannot be run."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def python_facts(path):
    """Returns the version and C library of a Python, or nothing if it does not exist."""
    code = (
        "import importlib.util as u, json, platform, sys;"
        "print(json.dumps({'version': list(sys.version_info[:3]), 'glibc': platform.libc_ver()[1],"
        "'venv': u.find_spec('venv') is not None}))"
    )
    found = output([path, "-c", code])
    return json.loads(found) if found else {}


def existing(path):
    """Returns ``path`` or the nearest folder above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def disk_problems(least_mib):
    """Returns a line for each file system that is too full."""
    problems, seen = [], set()
    for place in DISKS:
        folder = existing(place)
        device = os.stat(folder).st_dev
        if device in seen:
            continue
        seen.add(device)
        free_mib = shutil.disk_usage(folder).free // 2**20
        wanted = least_mib if place in ("/opt", "/var/lib") else 64
        if free_mib < wanted:
            problems.append(
                f"the disk is too full: {folder} has {free_mib} MiB free, {wanted} MiB are needed "
                f"(df -h {folder})"
            )
    return problems


def holder(port):
    """Returns the program that listens on a TCP port, as reported by ``ss``."""
    for line in output(["ss", "-Hltnp", f"sport = :{port}"]).splitlines():
        if "users:((" in line:
            name, _, rest = line.split('users:(("', 1)[1].partition('"')
            return "{} (pid {})".format(name, rest.partition("pid=")[2].partition(",")[0])
    return "another program"


def port_problems(address, ports, running):
    """Returns a line for each port that is taken by another program than our own running services."""
    problems = []
    try:
        ip = socket.gethostbyname(address)
    except OSError as error:
        return [f"its address {address} cannot be resolved on the VM: {error}"]
    for service, port in sorted(ports.items()):
        if service in running:
            continue
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM) if service == "membership" else (socket.SOCK_STREAM,)
        for kind in kinds:
            probe = socket.socket(socket.AF_INET, kind)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                probe.bind((ip, port))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
            except OSError as error:
                if error.errno == 99:  # EADDRNOTAVAIL
                    own = output(["hostname", "-I"]).strip() or "none"
                    return [
                        f"{ip} is not an address of this machine (it has {own}): set ansible_host to the "
                        "address at which the other VMs reach it"
                    ]
                problems.append(
                    f"port {port} of {service} is taken by {holder(port)}: stop it, or set {service}_port "
                    f"(ss -ltnp 'sport = :{port}')"
                )
                break
            finally:
                probe.close()
    return problems


def deployed():
    """Returns the one-line entries of the VM's configuration; nothing if there is no configuration."""
    try:
        with open(CONFIG, encoding="utf-8") as file:
            pairs = [line.split(":", 1) for line in file if ":" in line and line[0] not in " #"]
        return {key: json.loads(value) for key, value in pairs if key in ("cluster", "name", "voters")}
    except (OSError, ValueError):
        return {}


def identity_problems(found, wanted):
    """Returns a line if the VM is already another node, or belongs to a cluster with other voters."""
    node, cluster, voters = wanted["node"], wanted["cluster"], wanted["voters"]
    if (found.get("cluster", cluster), found.get("name", node)) != (cluster, node):
        known = f"it is already node {found.get('name')} of the cluster {found.get('cluster')}"
        return [
            f"{known}, not {node} of {cluster}: does one machine have two names? (to move it, first: "
            "ansible-playbook playbooks/reset.yml)"
        ]
    if voters and sorted(found.get("voters", voters)) != sorted(voters):
        return [
            f"its voters are {', '.join(found['voters'])}, but the inventory names {', '.join(voters)}: the "
            "voters of a deployed cluster cannot change, because their promises are on their disks"
        ]
    return []


def releases():
    """Returns the complete releases, oldest first, and the current one."""
    folder = os.path.join(ROOT, "releases")
    marks = []
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        mark = os.path.join(folder, name, ".complete")
        if os.path.exists(mark):
            marks.append((os.stat(mark).st_mtime, name))
    link = os.path.join(ROOT, "current")
    return [name for _, name in sorted(marks)], os.path.basename(os.readlink(link)) if os.path.islink(
        link
    ) else ""


def services(names):
    """Returns the state of each unit."""
    units = [f"rainstorm-{name}.service" for name in names]
    found = {}
    for block in output(
        ["systemctl", "show", "--property=Id,LoadState,ActiveState,StatusText", *units]
    ).split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values.get("Id", "").replace("rainstorm-", "").replace(".service", "")
        if name:
            found[name] = {
                "installed": values.get("LoadState") == "loaded",
                "active": values.get("ActiveState") == "active",
                "state": values.get("ActiveState", "unknown"),
                "status": values.get("StatusText", ""),
                # The task launcher starts and ends with its agent.
                "watched": name != "tasks",
                "current": current(name),
            }
    return found


def current(name):
    """Tells whether the files that a service read when it started are unchanged."""
    try:
        with open(STARTED % name, encoding="utf-8") as file:
            lines = file.read().splitlines()
        for line in lines:
            digest, path = line.split(None, 1)
            with open(path.lstrip("*"), "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    return False
        return bool(lines)
    except (OSError, ValueError):
        return False


def main():
    """Runs the module."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "node": text,
            "cluster": text,
            "voters": {"type": "list", "elements": "str", "required": True},
            "address": text,
            "ports": {"type": "dict", "required": True},
            "python": text,
            "python_min": text,
            "disk_min_mib": {"type": "int", "required": True},
            "now": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    ports = {service: int(port) for service, port in wanted["ports"].items()}
    problems = []
    python = python_facts(wanted["python"])
    least = [int(part) for part in wanted["python_min"].split(".")]
    if not python:
        problems.append("there is no Python at {}: apt-get install python3".format(wanted["python"]))
    elif python["version"] < least:
        version = ".".join(map(str, python["version"]))
        problems.append(
            f"its Python is too old: {wanted['python']} is {version}, RainStorm needs {wanted['python_min']} "
            "or newer (set common_python to a newer one)"
        )
    elif not python["venv"]:
        problems.append("{} lacks the module venv: apt-get install python3".format(wanted["python"]))
    elif not python["glibc"]:
        problems.append("its C library is not glibc, and the wheels are built for glibc")
    if os.geteuid() != 0:
        problems.append(
            "the login cannot become root: allow {} to use sudo without a password".format(
                os.environ.get("USER")
            )
        )
    if not os.path.isdir("/run/systemd/system"):
        problems.append("it does not run systemd")
    skew = time.time() - wanted["now"]
    if abs(skew) > CLOCK_TOLERANCE_S:
        problems.append(
            "its clock is {:.0f} s {}: set up NTP".format(abs(skew), "ahead" if skew > 0 else "behind")
        )
    found = services([*ports, "tasks"])
    # A service that is just starting or stopping also holds its port.
    running = [name for name in found if found[name]["state"] not in ("inactive", "failed", "unknown")]
    configured = deployed()
    complete, link = releases()
    if link not in complete or not running:
        problems += disk_problems(wanted["disk_min_mib"])
    problems += identity_problems(configured, wanted)
    problems += port_problems(wanted["address"], ports, running)
    module.exit_json(
        changed=False,
        ansible_facts={
            "rainstorm": {
                "problems": problems,
                "python": python,
                "machine": platform.machine(),
                "releases": complete,
                "release": link,
                "services": found,
                # A VM on which an agent is down can be set up immediately: it has nothing to lose.
                "down": not all(found.get(service, {}).get("active") for service in ports),
                "new": not configured,
                "voters": configured.get("voters", []),
            }
        },
    )


if __name__ == "__main__":
    main()
