"""Follows a running job: live progress on a terminal, an occasional line elsewhere.

The job is polled every ``poll_s``; during a short outage (while a new leader is being elected) the client
waits. Showing is separate from following, so that the demo can show its own events beside the job's numbers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, RainStormError
from agent.common.shell import clock
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.status import JobStatus
from ops.output import render

if TYPE_CHECKING:
    from rich.live import Live

POLL_INTERVAL_S = 0.1
PLAIN_INTERVAL_S = 2.0
# A new leader is elected within two seconds, so a cluster that is silent for longer has a problem.
OUTAGE_S_MAX = 20.0
BAR_CELLS = 24

Job = JobStatus


def follow(
    client: RainstormClient,
    job_id: str,
    *,
    on_look: Callable[[Job], None],
    poll_s: float = POLL_INTERVAL_S,
    timeout_s: float | None = None,
) -> Job:
    """Returns the job when it has ended; calls ``on_look`` with every state that it sees.

    Raises:
        DeadlineExceeded: it has not ended within ``timeout_s``.
        RainStormError: the cluster does not answer for ``OUTAGE_S_MAX``.
    """
    pause = threading.Event()
    limit = Deadline(clock.monotonic(), timeout_s) if timeout_s is not None else None
    outage: Deadline | None = None
    while True:
        try:
            job = client.job(job_id)
            outage = None
            on_look(job)
            if job.has_ended:
                return job
        except RainStormError as error:
            now = clock.monotonic()
            outage = outage or Deadline(now, OUTAGE_S_MAX)
            if not error.retryable or outage.expired(now):
                raise
        if limit is not None and limit.expired(clock.monotonic()):
            raise DeadlineExceeded(
                f"job {job_id} has not ended after {timeout_s:g} s", hint=f"inspect it: fab job {job_id}"
            )
        pause.wait(poll_s)


def line(job: Job) -> str:
    """Returns the progress of a job in one line."""
    part = job.bytes_read / job.bytes_total if job.bytes_total else 0.0
    filled = round(min(part, 1.0) * BAR_CELLS)
    tasks = job.tasks
    running = sum(1 for each in tasks if each.state == "running")
    return (
        f"[{'█' * filled}{'·' * (BAR_CELLS - filled)}] {min(part, 1.0):4.0%}  {job.state:<10}  "
        f"{render.count(job.lines_per_s):>9} lines/s  {render.count(job.lines_read):>9} lines  "
        f"{job.epochs_committed:>4} epochs committed  "
        f"{running}/{len(job.tasks)} tasks  generation {job.generation}"
    )


def reason(job: Job) -> str:
    """Returns why a job ended as it did."""
    return f"[{job.error.code}] {job.error.message}" if job.error is not None else "no reason given"


class Progress:
    """Shows the newest state of a job in place, below lines that stay."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._printed_at = 0.0

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Shows the states passed to ``update`` until the block ends."""
        if not sys.stderr.isatty():
            yield self
            return
        from rich.live import Live

        with Live(console=render.stderr_console(), refresh_per_second=10, transient=False) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def update(self, job: Job) -> None:
        """Shows the newest state."""
        now = clock.monotonic()
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line(job), no_wrap=True, overflow="ellipsis"))
        elif job.has_ended or now - self._printed_at >= PLAIN_INTERVAL_S:
            self._printed_at = now
            render.say(line(job))

    def note(self, message: str) -> None:
        """Prints a line that stays."""
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(message))
        else:
            render.say(message)
