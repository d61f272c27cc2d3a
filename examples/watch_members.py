"""Prints the agreed view, and then each change of it as soon as the voters decide on it, until Ctrl-C.

    python examples/watch_members.py [--inventory FILE] [--views N]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator

from agent.common.errors import RainStormError
from agent.membership.client import MembershipClient
from agent.membership.view import View
from ops.cluster.connections import connected
from ops.cluster.inventory import find
from ops.output.errors import describe

# The agent answers at once when the view changes; otherwise the same request is sent again after this long.
WAIT_S = 10.0


def views(membership: MembershipClient) -> Iterator[View]:
    """Yields the current view, and then every newer one that it sees."""
    view = membership.view()
    while True:
        yield view
        version = view.version
        while view.version == version:
            view = membership.watch(version, WAIT_S)


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Watches the agreed view of a cluster.")
    parser.add_argument("--inventory", help="inventory file of the cluster (default: the one that fab uses)")
    parser.add_argument("--views", type=int, help="stop after this many views (default: never)")
    options = parser.parse_args()
    try:
        with connected(find(options.inventory)) as connections:
            for view in itertools.islice(views(connections.membership()), options.views):
                nodes = ", ".join(f"{name} {node.state}" for name, node in sorted(view.nodes.items()))
                leader = f"leader {view.leader or 'none'}, term {view.term}"
                print(f"version {view.version}: {leader}: {nodes}", flush=True)
    except KeyboardInterrupt:
        return 130
    except RainStormError as error:
        print(describe("watch_members", error), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
