"""Segment files: hosts store the state and output of epochs in them, and others refer to bytes in them."""

from __future__ import annotations

from agent.common.message import Counter, Name

# Where bytes lie in HyDFS: (file, offset, length).
Reference = tuple[Name, Counter, Counter]
# Large enough that files are rare, small enough that a long job's garbage does not matter.
SEGMENT_FILE_BYTES = 64 * 1024 * 1024
# How long a host tries to append committed output to the destination; after that the leader asks again, on
# this node or another one.
PUBLISH_TIMEOUT_S = 10.0


def segment_file(job: str, writer: str, number: int) -> str:
    """Returns the name of the ``number``-th segment file that a writer made for a job."""
    return f".rainstorm/{job}/segments-{writer}-{number:06d}"
