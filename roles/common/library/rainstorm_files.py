#!/usr/bin/python
"""Writes several small files in one round trip, each atomically, and reports which of them changed.

A deploy writes some twenty files to each VM. With a ``template`` or ``copy`` task for each file, ten VMs
would cost half a minute of round trips even if nothing changed.
"""

import difflib
import grp
import os
import pwd
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: rainstorm_files
short_description: Writes several small files at once
description:
  - Writes each file to a temporary one beside it, checks it, and renames it.
options:
  files:
    description:
      - The files to write. C(validate) is a command in which C(%s) stands for the temporary file; a file that
        the command rejects is not installed. In check mode the command is skipped if it is not installed yet.
    type: list
    elements: dict
    required: true
  secret:
    description: Never show the content of the files.
    type: bool
    default: false
"""


def owner_ids(entry):
    """Returns the numeric owner and group; None if they do not exist yet, as in a dry run."""
    try:
        return pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    except KeyError:
        return None


def same(entry, content):
    """Tells whether a file has the desired content and attributes, and returns its content."""
    try:
        state = os.lstat(entry["path"])
        with open(entry["path"], "rb") as file:
            found = file.read()
    except OSError:
        return False, b""
    attributes = (state.st_uid, state.st_gid) == owner_ids(entry) and state.st_mode & 0o7777 == entry["mode"]
    return attributes and found == content, found


def refusal(entry, path, check_mode):
    """Returns why the content is rejected, or an empty string."""
    if not entry["validate"]:
        return ""
    command = [word.replace("%s", path) for word in entry["validate"].split()]
    if check_mode and not os.path.exists(command[0]):
        return ""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    if done.returncode == 0:
        return ""
    return done.stdout.decode("utf-8", "replace").strip() or f"{command[0]} ended with {done.returncode}"


def write(module, entry, content):
    """Writes one file and renames it into place."""
    folder = os.path.dirname(entry["path"])
    if module.check_mode and not os.path.isdir(folder):
        return
    if not module.check_mode and not os.path.isdir(folder):
        os.makedirs(folder, 0o755)
    handle, fresh = tempfile.mkstemp(prefix=".rainstorm-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        said = refusal(entry, fresh, module.check_mode)
        if said:
            module.fail_json(
                msg="{} was rejected and not changed: {}".format(
                    entry["path"], said.replace(fresh, entry["path"])
                )
            )
        if module.check_mode:
            return
        ids = owner_ids(entry)
        if ids is None:
            module.fail_json(msg="there is no user {owner} or no group {group}".format(**entry))
        os.chown(fresh, *ids)
        os.chmod(fresh, entry["mode"])
        os.replace(fresh, entry["path"])
        fresh = ""
    finally:
        if fresh:
            os.unlink(fresh)


def describe(entry, before, after):
    """Returns what changes, as Ansible shows it with --diff."""
    lines = difflib.unified_diff(
        before.decode("utf-8", "replace").splitlines(True),
        after.decode("utf-8", "replace").splitlines(True),
        entry["path"],
        entry["path"],
    )
    return {"prepared": "".join(lines)}


def main():
    """Runs the module."""
    text = {"type": "str", "required": True}
    entry = {
        "path": text,
        "content": dict(text, no_log=False),
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "secret": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    changed, diffs = [], []
    for wanted in module.params["files"]:
        wanted["mode"] = int(wanted["mode"], 8)
        content = wanted["content"].encode("utf-8")
        good, before = same(wanted, content)
        if good:
            continue
        write(module, wanted, content)
        changed.append(wanted["path"])
        if not module.params["secret"]:
            diffs.append(describe(wanted, before, content))
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
