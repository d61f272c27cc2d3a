"""Installs one release on a VM: a virtual environment filled from an archive of wheels, hashes checked.

    python3 install_release.py ARCHIVE SHA256 FOLDER PYTHON

Neither pip nor the internet is needed: pip comes as a wheel in the archive and runs from within it. The
folder counts as a release only when ``.complete`` is in it, which is written last; what an interrupted run
left behind is removed first. The byte code of what the agents import is compiled here, because they may not
write there.
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
    """Returns the modules that run as processes; importing them is the test of the release as well."""
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
            sys.exit(f"{archive} is not the archive that was sent: its checksum differs")
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
