"""Calls to the other store agents, and which of them have failed lately.

Each peer has a few threads of its own, so that one that hangs never holds up records for the others. A call
to this node itself goes straight to its handler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError, Unavailable
from agent.common.shell import clock
from agent.wire.client import Client, Response, Target
from agent.wire.connection import Payload
from agent.wire.server import Handler, Request

LANE_THREADS = 4
SUSPECT_S = 3.0
FULL_S = 15.0


class Peers:
    """The store agents of the cluster as this one sees them."""

    def __init__(
        self, me: str, client: Client, targets: dict[str, Target], view_version: Callable[[], int]
    ) -> None:
        self.me = me
        self.names = tuple(targets)
        self.handlers: dict[str, Handler] = {}
        self.on_suspect: Callable[[str], None] = lambda node: None
        self._client = client
        self._targets = targets
        self._view_version = view_version
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._suspects: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closed = False

    def call(
        self, node: str, kind: str, fields: dict[str, Any], payload: Payload = b"", *, timeout_s: float
    ) -> Response:
        """Calls the store agent of ``node`` and returns its answer.

        Raises:
            RainStormError: what the agent answered with, or what happened on the way.
        """
        fields = {**fields, "view": self._view_version()}
        if node == self.me:
            assert isinstance(payload, bytes | bytearray | memoryview)
            deadline = Deadline(clock.monotonic(), timeout_s)
            reply = self.handlers[kind](Request(kind, fields, payload, self.me, deadline))
            return Response(reply.fields, reply.payload)  # type: ignore[arg-type]
        target = self._targets.get(node)
        if target is None:  # a cluster that grows or shrinks restarts one node after the other
            raise Unavailable(f"{self.me} was not told where {node} is", hint="ansible-playbook deploy.yml")
        return self._client.call(target, kind, fields, payload, timeout_s=timeout_s)

    def later(self, node: str, work: Callable[[], None]) -> None:
        """Runs ``work`` in one of the threads kept for ``node``."""
        with self._lock:
            if self._closed:
                return
            lane = self._lanes.get(node)
            if lane is None:
                lane = ThreadPoolExecutor(LANE_THREADS, thread_name_prefix=f"hydfs-to-{node}")
                self._lanes[node] = lane
            lane.submit(work)

    def tell(self, node: str, kind: str, fields: dict[str, Any], *, timeout_s: float = 2.0) -> None:
        """Calls in the background; a failure is left to the repair."""

        def work() -> None:
            try:
                self.call(node, kind, fields, timeout_s=timeout_s)
            except RainStormError:
                return

        self.later(node, work)

    def suspect(self, node: str, cause: str = "") -> None:
        """Remembers for a while that new blocks better avoid ``node``."""
        known = self._suspects.get(node, 0.0) > clock.monotonic()
        self._suspects[node] = clock.monotonic() + (FULL_S if cause == "DISK_FULL" else SUSPECT_S)
        if not known and cause != "DISK_FULL" and node != self.me:
            self.later(self.me, lambda: self.on_suspect(node))

    def suspects(self) -> list[str]:
        """Returns the nodes to avoid now."""
        now = clock.monotonic()
        return [node for node, until in list(self._suspects.items()) if until > now]

    def close(self) -> None:
        """Ends the threads; calls under way end by their own deadlines."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.shutdown(wait=False, cancel_futures=True)
        for lane in lanes:
            lane.shutdown(wait=True)
