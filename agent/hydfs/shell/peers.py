"""Calls to the other store agents, and which of them have failed lately.

Each peer has its own few threads, so that a stalled peer never delays records for the others. A call
to this node itself goes directly to its handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import Overloaded, RainStormError, Unavailable
from agent.common.message import Done, R
from agent.common.shell import clock, threads
from agent.common.shell.pool import Pool
from agent.wire.client import Answered, Client, Target
from agent.wire.codec.framing import Buffer
from agent.wire.connection import Payload
from agent.wire.endpoint import Answer, Call, Endpoint

logger = logging.getLogger("agent.hydfs.shell.peers")

LANE_THREADS = 4
# Requests that wait for one peer: sixteen blocks with a full window of records (64 each). A peer with more of
# them counts as failed.
LANE_CALLS_MAX = 1024
# Long enough for a call in progress to end by its own deadline.
CLOSE_TIMEOUT_S = 5.0
SUSPECT_S = 3.0
FULL_S = 15.0


class Peers:
    """The store agents of the cluster, as seen from this one."""

    def __init__(
        self, me: str, client: Client, targets: dict[str, Target], view_version: Callable[[], int]
    ) -> None:
        self.me = me
        self.names = tuple(targets)
        self.endpoints: Mapping[str, Endpoint] = {}
        self.on_suspect: Callable[[str], None] = lambda node: None
        self._client = client
        self._targets = targets
        self._view_version = view_version
        self._lanes: dict[str, Pool] = {}
        self._suspects: dict[str, float] = {}
        self._lock = threads.lock()
        self._closed = False

    def ask(
        self, node: str, request: message.Request[R], payload: Payload = b"", *, timeout_s: float
    ) -> Answered[R]:
        """Asks the store agent of ``node`` and returns its answer; a payload that is a ``FileSlice`` is that
        of this node itself, and the caller closes it.

        Raises:
            RainStormError: the error that the agent answered with, or that of the connection.
        """
        version = self._view_version()
        if node == self.me:
            assert isinstance(payload, bytes | bytearray | memoryview)
            return self._ask_myself(request, payload, version, timeout_s)
        target = self._targets.get(node)
        if target is None:  # a cluster that grows or shrinks restarts one node after the other
            raise Unavailable(
                f"{node} is not in the configuration of {self.me}", hint="ansible-playbook deploy.yml"
            )
        return self._client.ask(target, request, payload, view=version, timeout_s=timeout_s)

    def _ask_myself(
        self, request: message.Request[R], payload: Buffer, version: int, timeout_s: float
    ) -> Answered[R]:
        call = Call(self.me, Deadline(clock.monotonic(), timeout_s), payload, version)
        found = self.endpoints[request.kind].handle(request, call)
        answer = found if isinstance(found, Answer) else Answer(found)
        return Answered(answer.message, answer.payload)  # type: ignore[arg-type]

    def later(self, node: str, work: Callable[[], None]) -> bool:
        """Hands ``work`` to the threads kept for ``node``; returns False when too much waits there
        or the agent is stopping.
        """
        with self._lock:
            if self._closed:
                return False
            lane = self._lanes.get(node)
            if lane is None:
                lane = self._lanes[node] = Pool(f"hydfs-to-{node}", LANE_THREADS, LANE_CALLS_MAX)
        try:
            lane.run(work)
        except (Overloaded, Unavailable):
            return False
        return True

    def tell(self, node: str, request: message.Request[Done], *, timeout_s: float = 2.0) -> None:
        """Asks in the background; a failure is left to the repair."""

        def work() -> None:
            try:
                self.ask(node, request, timeout_s=timeout_s)
            except RainStormError as error:
                logger.debug("tell_failed node=%s type=%s error=%s", node, request.kind, error)

        self.later(node, work)

    def suspect(self, node: str, cause: str = "") -> None:
        """Notes that new blocks should avoid ``node`` for a while."""
        now = clock.monotonic()
        with self._lock:
            known = self._suspects.get(node, 0.0) > now
            self._suspects = {other: until for other, until in self._suspects.items() if until > now}
            self._suspects[node] = now + (FULL_S if cause == "DISK_FULL" else SUSPECT_S)
        if not known and cause != "DISK_FULL" and node != self.me:
            self.later(self.me, lambda: self.on_suspect(node))

    def suspects(self) -> list[str]:
        """Returns the nodes to avoid now."""
        now = clock.monotonic()
        with self._lock:
            return [node for node, until in self._suspects.items() if until > now]

    def close(self) -> None:
        """Ends the threads; requests in progress end by their own deadlines."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        deadline = Deadline(clock.monotonic(), CLOSE_TIMEOUT_S)
        for lane in lanes:
            lane.clear()
        for lane in lanes:
            lane.stop(drain=False, timeout_s=deadline.remaining(clock.monotonic()))
