"""Builds the archive that a VM installs: every wheel of the lock, the project's own wheel, and pip itself.

VMs have no internet, no compiler and no pip. ``python -m ops.deploy.wheelhouse --python 3.11 --machine x86_64
--glibc 2.36`` builds the archive for such VMs once and keeps it in ``.rainstorm/wheelhouse/<release>/``. The
name of a release is the version and a hash of the lock and the source, so that an unchanged checkout is the
same release. Wheels are downloaded with their hashes checked, and kept for the next release. The project's
own wheel is built reproducibly from a copy of the source. The archive is an uncompressed tar, because wheels
are already compressed.

It prints one JSON object: release, archive, sha256, size_bytes, changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import __version__
from agent.common.errors import ConfigError, RainStormError, Unavailable
from ops.cluster.inventory import REPOSITORY
from ops.machine.locks import exclusive
from ops.output.errors import describe

FOLDER = REPOSITORY / ".rainstorm" / "wheelhouse"
TOOLS_LOCK = REPOSITORY / "requirements" / "all.lock"
PIP_TIMEOUT_S = 900.0
# An archive has 80 MB. VMs keep three releases themselves; these archives are for VMs that have lost one.
ARCHIVES_MAX = 8
# The oldest glibc for which the projects in this lock publish wheels.
GLIBC_MINOR_MIN = 17
# The zip format cannot store times before 1980; any fixed time makes the wheel reproducible.
SOURCE_DATE = "1000000000"


@dataclass(frozen=True, slots=True)
class Target:
    """The platform of the wheels: the VMs' Python, processor and C library."""

    python: str
    machine: str
    glibc: str

    def __str__(self) -> str:
        return f"py{self.python}-{self.machine}-glibc{self.glibc}"

    def pip_options(self) -> list[str]:
        """Returns the options of pip for downloads for this target."""
        minor = int(self.glibc.split(".")[1])
        platforms = [f"manylinux_2_{n}_{self.machine}" for n in range(minor, GLIBC_MINOR_MIN - 1, -1)]
        platforms += [f"manylinux2014_{self.machine}", "any"]
        return [
            *(word for name in platforms for word in ("--platform", name)),
            *("--python-version", self.python, "--implementation", "cp"),
        ]


def sources(checkout: Path = REPOSITORY) -> list[Path]:
    """Returns the files of the project's wheel, and its lock, relative to the checkout, sorted."""
    files = [path for path in (checkout / "agent").rglob("*") if "__pycache__" not in path.parts]
    named = [checkout / name for name in ("LICENSE", "pyproject.toml", "requirements/agent.lock")]
    return sorted(path.relative_to(checkout) for path in (*files, *named) if path.is_file())


def release_name(checkout: Path = REPOSITORY) -> str:
    """Returns the name of the release that a checkout contains."""
    digest = hashlib.sha256()
    for path in sources(checkout):
        content = (checkout / path).read_bytes()
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return f"{__version__}-{digest.hexdigest()[:10]}"


def archive_path(release: str, target: Target) -> Path:
    """Returns the path of the archive of a release."""
    return FOLDER / release / f"{target}.tar"


def build(target: Target, checkout: Path = REPOSITORY) -> Path:
    """Builds the archive of a checkout's release, unless it exists, and returns its path.

    Raises:
        Unavailable: pip could not download or build a wheel.
        AlreadyRunning: another command is building one.
    """
    archive = archive_path(release_name(checkout), target)
    if archive.exists():
        return archive
    refusal = "another command is building a wheelhouse"
    with (
        exclusive(FOLDER / ".lock", refusal, hint="wait until it has finished, then try again"),
        tempfile.TemporaryDirectory(prefix=".build-", dir=FOLDER) as scratch,
    ):
        folder = Path(scratch)
        source, wheels = _copy_sources(checkout, folder / "source"), folder / "wheels"
        # The checkout may have changed meanwhile: the release is what was copied.
        archive = archive_path(release_name(source), target)
        lock = source / "requirements" / "agent.lock"
        downloads = FOLDER / "downloads" / str(target)
        for made in (wheels, downloads, archive.parent):
            made.mkdir(parents=True, exist_ok=True)
        _download(target, lock, downloads, wheels)
        pip_lock = folder / "pip.lock"
        pip_lock.write_text(locked("pip", TOOLS_LOCK.read_text("utf-8")), "utf-8")
        _download(target, pip_lock, downloads, wheels)
        own = _build_own(source, wheels)
        requirement = f"rainstorm=={__version__} --hash=sha256:{sha256(own)}\n"
        (wheels / "requirements.txt").write_text(lock.read_text("utf-8") + requirement, "utf-8")
        fresh = folder / archive.name
        _pack(fresh, sorted(wheels.iterdir()))
        fresh.replace(archive)
        _remove_oldest()
    return archive


def _remove_oldest() -> None:
    archives = sorted(FOLDER.glob("*/*.tar"), key=lambda path: path.stat().st_mtime)
    for archive in archives[:-ARCHIVES_MAX]:
        archive.unlink()
    for folder in FOLDER.iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def locked(project: str, lock: str) -> str:
    """Returns the entry of one project in a lock file, with its hashes.

    Raises:
        ConfigError: the lock does not contain it.
    """
    found = re.search(rf"^{re.escape(project)}==[^\\\n]*(?:\\\n[^\\\n]*)*$", lock, re.MULTILINE)
    if found is None:
        raise ConfigError(f"{TOOLS_LOCK} does not contain {project}", hint="make lock")
    return found[0] + "\n"


def sha256(path: Path) -> str:
    """Returns a file's checksum in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(target: Target, lock: Path, downloads: Path, wheels: Path) -> None:
    options = [
        *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--find-links", str(downloads), "--dest", str(wheels), "--requirement", str(lock)),
        *target.pip_options(),
    ]
    try:
        # Earlier downloads are reused, after their hashes were checked like those of new ones.
        _pip(*options, "--no-index")
    except Unavailable:
        _pip(*options)
    for wheel in wheels.glob("*.whl"):
        if not (downloads / wheel.name).exists():
            shutil.copyfile(wheel, downloads / wheel.name)


def _copy_sources(checkout: Path, folder: Path) -> Path:
    for path in sources(checkout):
        copy = folder / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / path, copy)
        copy.chmod(0o644)
    return folder


def _build_own(source: Path, wheels: Path) -> Path:
    before = set(wheels.iterdir())
    _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    (own,) = set(wheels.iterdir()) - before
    return own


def _pack(archive: Path, files: Iterable[Path]) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in files:
            entry = tarfile.TarInfo(path.name)
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, int(SOURCE_DATE)
            with path.open("rb") as file:
                tar.addfile(entry, file)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"pip {arguments[0]} did not finish within {PIP_TIMEOUT_S:g} s", hint="try again"
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-400:]]
        raise Unavailable(
            f"pip {arguments[0]} failed: {' '.join(' '.join(said).split())}",
            hint="can this machine reach the package index? it is needed once for each lock",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.deploy.wheelhouse", description="Build the archive that VMs install"
    )
    parser.add_argument("--python", required=True, metavar="3.11", help="the VMs' Python")
    parser.add_argument("--machine", required=True, metavar="x86_64", help="the VMs' processor")
    parser.add_argument("--glibc", required=True, metavar="2.36", help="the VMs' C library")
    parser.add_argument(
        "--release", default="", help="a release that was built earlier (default: this checkout's)"
    )
    parser.add_argument("--check", action="store_true", help="only report what would be built")
    options = parser.parse_args(arguments)
    target = Target(options.python, options.machine, options.glibc)
    try:
        archive = archive_path(options.release or release_name(), target)
        changed = not archive.exists() and not options.release
        if changed and not options.check:
            archive = build(target)
    except RainStormError as error:
        print(describe("wheelhouse", error), file=sys.stderr)
        return error.exit_status
    found = {"sha256": sha256(archive), "size_bytes": archive.stat().st_size} if archive.exists() else {}
    print(json.dumps({"changed": changed, "release": archive.parent.name, "archive": str(archive), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
