"""Installs one release on a VM: a virtual environment from an archive of wheels, with hashes checked.

    python3 install_release.py ARCHIVE SHA256 FOLDER PYTHON

Neither pip nor the internet is needed: pip is a wheel in the archive and runs from there. The folder counts
as a release only if it contains ``.complete``, which is written last. The remains of an interrupted run are
removed first. The bytecode of the agents' modules is compiled here, because the agents may not write to the
folder.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile


def entry_points(site):
    """Returns the modules that run as processes; importing them also tests the release."""
    services = sorted(glob.glob(os.path.join(site, "agent", "*", "service.py")))
    tasks = [os.path.join(site, "agent", "rainstorm", name) for name in ("task.py", "launcher.py")]
    found = [path for path in services + tasks if os.path.exists(path)]
    return [os.path.relpath(path, site)[: -len(".py")].replace(os.sep, ".") for path in found]


def main():
    """Runs the command line; a failing step ends it with its message."""
    os.umask(0o022)
    archive, digest, folder, python = sys.argv[1:]
    with open(archive, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            sys.exit(f"{archive} is damaged: its checksum is not that of the archive that was sent")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="rainstorm-", dir=os.path.dirname(archive)) as wheels:
        with tarfile.open(archive) as tar:
            for entry in tar:
                with open(os.path.join(wheels, os.path.basename(entry.name)), "wb") as wheel:
                    shutil.copyfileobj(tar.extractfile(entry), wheel, 2**20)
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
        (pip,) = (name for name in os.listdir(wheels) if name.startswith("pip-"))
        inside = os.path.join(folder, "bin", "python")
        environment = {
            "PATH": os.environ["PATH"],
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        subprocess.run(
            [
                *(inside, os.path.join(wheels, pip, "pip"), "install", "--quiet", "--no-index", "--no-deps"),
                *("--no-compile", "--require-hashes", "--root-user-action=ignore", "--find-links", wheels),
                *("--requirement", os.path.join(wheels, "requirements.txt")),
            ],
            check=True,
            env=environment,
        )
    (site,) = glob.glob(os.path.join(folder, "lib", "python3*", "site-packages"))
    subprocess.run([inside, "-m", "compileall", "-q", os.path.join(site, "agent")], check=True)
    modules = ", ".join(["agent.__main__", *entry_points(site)])
    subprocess.run([inside, "-c", "import " + modules], check=True, env=environment)
    mark = os.path.join(folder, ".complete")
    with open(mark + ".new", "w") as file:
        file.write(os.path.basename(folder) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(mark + ".new", mark)


if __name__ == "__main__":
    main()
