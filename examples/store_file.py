"""Stores a file in HyDFS, reads it back, shows where its blocks are, and deletes it.

    python examples/store_file.py [--inventory FILE]
"""

from __future__ import annotations

import argparse
import io
import sys
import uuid

from agent.common.errors import AlreadyExists, RainStormError
from agent.hydfs.client import HydfsClient
from ops.cluster.connections import connected
from ops.cluster.inventory import find
from ops.output.errors import describe

CONTENT = "".join(f"line {number}\n" for number in range(1000)).encode()


def store(files: HydfsClient, name: str) -> None:
    """Stores the file, reads it, and deletes it."""
    # The file becomes visible when all of it is stored, or not at all.
    stat = files.put(name, io.BytesIO(CONTENT))
    print(f"stored {name}: {stat.length} bytes")
    for block in stat.blocks:
        print(f"block {block.number}: {block.length} bytes on {', '.join(block.replicas)}")
    try:
        files.put(name, io.BytesIO(b"other"))
    except AlreadyExists as error:
        print(f"storing it again is refused: [{error.code}]")
    copy = io.BytesIO()
    files.get(name, copy)
    print(f"read back: {'equal' if copy.getvalue() == CONTENT else 'DIFFERENT'}")
    print(f"bytes 5 to 12: {bytes(files.read(name, 5, 7))!r}")
    files.delete(name)
    print(f"deleted {name}")


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Stores, reads and deletes a file in HyDFS.")
    parser.add_argument("--inventory", help="inventory file of the cluster (default: the one that fab uses)")
    try:
        with connected(find(parser.parse_args().inventory)) as connections:
            store(connections.hydfs(), f"examples/store-{uuid.uuid4().hex[:8]}.txt")
    except RainStormError as error:
        print(describe("store_file", error), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
