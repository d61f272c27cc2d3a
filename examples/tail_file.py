"""Prints a file in HyDFS and then whatever is appended to it, until Ctrl-C.

    python examples/tail_file.py [--inventory FILE] [--name NAME] [--lines N]
    # meanwhile, in another terminal: python examples/append_records.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
from collections.abc import Iterator

from agent.common.errors import RainStormError
from agent.hydfs.client import HydfsClient
from ops.cluster.connections import connected
from ops.cluster.inventory import find
from ops.output.errors import describe

PIECE_BYTES = 1024 * 1024
PAUSE_S = 0.2  # while the file does not grow, each pause costs one small request


def lines(files: HydfsClient, name: str) -> Iterator[bytes]:
    """Yields each line of a file as soon as it is complete."""
    file_id = files.stat(name).file_id
    pause, offset, rest = threading.Event(), 0, b""
    while True:
        # With the file's id: a new file of the same name is an error, not a continuation.
        data = bytes(files.read(name, offset, PIECE_BYTES, file_id=file_id))
        offset += len(data)
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if not data:
            pause.wait(PAUSE_S)


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Follows a file in HyDFS.")
    parser.add_argument("--inventory", help="inventory file of the cluster (default: the one that fab uses)")
    parser.add_argument("--name", default="examples/log.txt")
    parser.add_argument("--lines", type=int, help="stop after this many lines (default: never)")
    options = parser.parse_args()
    try:
        with connected(find(options.inventory)) as connections:
            for line in itertools.islice(lines(connections.hydfs(), options.name), options.lines):
                print(line.decode(errors="replace"), flush=True)
    except KeyboardInterrupt:
        return 130
    except RainStormError as error:
        print(describe("tail_file", error), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
