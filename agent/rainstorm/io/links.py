"""The two directions between leader and agents: commands down, reports up; in order, never blocking the
sender.

Each node has its own thread and bounded queue, so a node that does not answer delays no other. A command that
cannot be delivered makes the node unreachable: its queue is dropped, because the next generation makes all of
it void. Reports go to the leading node, and are sent again until they are accepted or too old to matter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from agent.common.config import NodeConfig
from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, RainStormError, Unavailable
from agent.common.shell import clock, threads
from agent.common.shell.worker import Worker
from agent.rainstorm.messages.commands import Command, CommandRequest
from agent.rainstorm.messages.reports import Report, ReportRequest
from agent.wire.client import Address, Client

logger = logging.getLogger("agent.rainstorm.io.links")

QUEUE_MAX = 1000
COMMAND_TIMEOUT_S = 2.0
COMMAND_TRIES = 2
RETRY_S = 0.05
# By then the leader has replaced the generation of an epoch whose acknowledgement is this late.
REPORT_TIMEOUT_S = 10.0


def address_of(config: NodeConfig, node: str) -> Address:
    """Returns where the rainstorm agent of a node listens."""
    peer = config.peer(node)
    return Address(peer.address, peer.rainstorm_port, node)


class AgentLink:
    """Commands to one node."""

    def __init__(
        self, node: str, target: Address, client: Client, on_unreachable: Callable[[str], None]
    ) -> None:
        self._node = node
        self._target = target
        self._client = client
        self._on_unreachable = on_unreachable
        self._stopping = threads.event()
        self._worker: Worker[Command] = Worker(
            f"link-{node}", self._deliver, QUEUE_MAX, on_error=self._deliver_failed
        )
        self._worker.start()

    def send(self, command: Command) -> None:
        """Queues a command; when the queue is full the node counts as unreachable."""
        if not self._worker.try_submit(command):
            self._fail("its queue is full")

    def stop(self, timeout_s: float) -> None:
        """Ends the thread; commands that were not sent are dropped."""
        self._stopping.set()
        self._worker.stop(drain=False, timeout_s=timeout_s)

    def _deliver(self, command: Command) -> None:
        request = CommandRequest.of(command)
        for attempt in range(COMMAND_TRIES):
            try:
                self._client.ask(self._target, request, timeout_s=COMMAND_TIMEOUT_S)
                return
            except DeadlineExceeded as error:
                self._fail(str(error))
                return
            except RainStormError as error:
                if attempt + 1 == COMMAND_TRIES or self._stopping.wait(RETRY_S):
                    self._fail(str(error))

    def _deliver_failed(self, error: Exception) -> bool:
        self._fail(repr(error))
        return True

    def _fail(self, reason: str) -> None:
        self._worker.clear()
        if not self._stopping.is_set():
            logger.info("agent_unreachable node=%s reason=%s", self._node, reason)
            self._on_unreachable(self._node)


class ReportLink:
    """Reports of this node to the current leader."""

    def __init__(self, config: NodeConfig, client: Client, leader: Callable[[], str]) -> None:
        self._config = config
        self._client = client
        self._leader = leader
        self._stopping = threads.event()
        # An error in one report must not end all others: it is logged and counted.
        self._worker: Worker[Report] = Worker(
            "report-link", self._deliver, QUEUE_MAX, on_error=lambda error: True
        )
        self.start = self._worker.start

    def send(self, report: Report) -> None:
        """Queues a report; when the queue is full the oldest one is dropped: if it matters, the leader asks
        again.
        """
        with contextlib.suppress(Unavailable):  # the agent is stopping
            if not self._worker.displace(report):
                logger.warning("report_dropped reason=queue_full")

    def stop(self, timeout_s: float) -> None:
        """Ends the thread; reports that were not sent are dropped."""
        self._stopping.set()
        self._worker.stop(drain=False, timeout_s=timeout_s)

    def _deliver(self, report: Report) -> None:
        request = ReportRequest.of(report)
        deadline = Deadline(clock.monotonic(), REPORT_TIMEOUT_S)
        failed = False
        while not self._stopping.is_set() and not deadline.expired(clock.monotonic()):
            leader = self._leader()
            if leader:
                try:
                    target = address_of(self._config, leader)
                    self._client.ask(target, request, timeout_s=COMMAND_TIMEOUT_S)
                    return
                except RainStormError as error:
                    if not error.retryable:
                        line = "report_refused type=%s leader=%s error=%s"
                        logger.warning(line, report.kind, leader, error)
                        return
                    if not failed:
                        line = "report_retry type=%s leader=%s error=%s"
                        logger.info(line, report.kind, leader, error)
                    failed = True
            self._stopping.wait(RETRY_S)
