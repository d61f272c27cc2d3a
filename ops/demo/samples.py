"""The sample job and its input, used by ``fab submit-job`` without arguments and by the demo.

``ops.demo.citysigns`` generates the input from a seed, so it is the same on every machine. It is generated
once, kept beside the local cluster's data, and stored in HyDFS if it is missing there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from agent.common.errors import AlreadyExists, JobInvalid, NotFound
from agent.hydfs.client import HydfsClient
from ops.cluster.inventory import REPOSITORY, one_line

SAMPLE_JOB = REPOSITORY / "jobs" / "sample.yml"
SAMPLE_ROWS = 200_000
SEED = 425


def load_job(path: Path) -> dict[str, Any]:
    """Reads a job file.

    Raises:
        JobInvalid: it cannot be read, is not YAML or is not a mapping.
    """
    try:
        job = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise JobInvalid(f"there is no job file {path}", hint="see the samples in jobs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JobInvalid(
            f"the job file {path} is not YAML: {one_line(error)}", hint="correct it and submit it again"
        ) from None
    if not isinstance(job, dict):
        raise JobInvalid(f"the job file {path} is not a mapping", hint="see the samples in jobs/")
    return job


def input_file(folder: Path, rows: int, seed: int) -> Path:
    """Returns a local file of ``rows`` generated rows, which is created if it does not exist."""
    path = folder / f"input-{rows}-{seed}.csv"
    if not path.exists():
        from ops.demo import citysigns

        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            with open(fresh, "wb") as file:
                for piece in citysigns.generate(rows, seed):
                    file.write(piece)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    return path


def ensure_stored(client: HydfsClient, name: str, local: Path) -> bool:
    """Stores a local file under ``name`` unless the name is taken; tells whether it did."""
    try:
        client.stat(name)
        return False
    except NotFound:
        pass
    try:
        with open(local, "rb") as source:
            client.put(name, source)
    except AlreadyExists:
        return False  # someone else stored it first
    return True


def free_name(client: HydfsClient, wanted: str) -> str:
    """Returns ``wanted``, or the first ``stem-N.ext`` that no file in HyDFS has."""
    stem, dot, extension = wanted.rpartition(".")
    if not dot:
        stem, extension = wanted, ""
    taken = {stat.name for stat in client.list(stem)}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{dot}{extension}"
    return name
