"""Appends records to a file in HyDFS: each exactly once, however often a request is repeated.

    python examples/append_records.py [--inventory FILE] [--name NAME] [--count N]
"""

from __future__ import annotations

import argparse
import sys
import uuid

from agent.common.errors import AlreadyExists, Conflict, RainStormError
from agent.hydfs.client import HydfsClient
from ops.cluster.connections import connected
from ops.cluster.inventory import find
from ops.output.errors import describe


def append(files: HydfsClient, name: str, count: int) -> None:
    """Appends ``count`` lines to a file, which is created when it does not exist."""
    try:
        files.create(name)
    except AlreadyExists:
        print(f"{name} exists: appending to it")
    writer = uuid.uuid4().hex
    for sequence in range(1, count + 1):
        line = f"record {sequence} of {writer[:8]}\n".encode()
        result = files.append(name, line, writer=writer, sequence=sequence)
        # After a lost answer, repeat the same call: the store recognises (writer, sequence).
        again = files.append(name, line, writer=writer, sequence=sequence)
        print(f"offset {result.offset}: {result.copies} copies are durable; repeated: {again.duplicate=}")
    length = files.stat(name).length
    try:
        files.append(name, b"never\n", writer=writer, sequence=count + 1, if_offset=length - 1)
    except Conflict as error:
        print(f"a conditional append at the wrong offset is refused: [{error.code}]")


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Appends records to a file in HyDFS.")
    parser.add_argument("--inventory", help="inventory file of the cluster (default: the one that fab uses)")
    parser.add_argument("--name", default="examples/log.txt")
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    try:
        with connected(find(options.inventory)) as connections:
            append(connections.hydfs(), options.name, options.count)
    except RainStormError as error:
        print(describe("append_records", error), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
