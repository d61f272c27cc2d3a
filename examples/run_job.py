"""Stores a small input, runs a job on it, follows it to its end, and prints the result.

    python examples/run_job.py [--inventory FILE]
"""

from __future__ import annotations

import argparse
import io
import sys
import uuid
from typing import Any

from agent.common.errors import JobFailed, RainStormError
from ops.cluster.connections import Connections, connected
from ops.cluster.inventory import find
from ops.output.errors import describe

ROWS = b"service,level\n" + b"api,error\napi,info\nweb,error\nweb,error\n" * 250


def job(source: str, sink: str) -> dict[str, Any]:
    """Returns the content of a job file: count the errors of each service."""
    errors = {"operator": "filter", "column": "level", "equals": "error"}
    count = {"operator": "aggregate-by-key", "key": "service", "function": "count"}
    read, written = {"file": source, "format": "csv", "header": True}, {"file": sink}
    return {"name": "count-errors", "source": read, "stages": [errors, count], "sink": written}


def run(connections: Connections) -> None:
    """Runs the job on its own files, and deletes them afterwards."""
    folder = f"examples/{uuid.uuid4().hex[:8]}"
    files, engine = connections.hydfs(), connections.rainstorm()
    files.put(f"{folder}/input.csv", io.BytesIO(ROWS))
    submitted = engine.submit(job(f"{folder}/input.csv", f"{folder}/output.csv"))
    while not (status := engine.wait(submitted, timeout_s=1.0)).has_ended:
        print(f"{submitted} {status.state}: {status.lines_read} lines read")
    if status.state != "finished":
        raise JobFailed(f"job {submitted} {status.state}: {status.error}", hint=f"fab job {submitted}")
    files.get(f"{folder}/output.csv", sys.stdout.buffer)
    files.delete_prefix(f"{folder}/")


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs a small job.")
    parser.add_argument("--inventory", help="inventory file of the cluster (default: the one that fab uses)")
    try:
        with connected(find(parser.parse_args().inventory)) as connections:
            run(connections)
    except RainStormError as error:
        print(describe("run_job", error), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
