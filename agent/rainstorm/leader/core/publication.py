"""Tracks the committed output on its way to the destination file (a core).

One epoch of a sink task is published at a time. The next one starts when the previous one is in the file,
whichever node put it there: the store would take a late, older sequence of the same writer for a repetition
and drop it. Output that was not confirmed in time, or was assigned to a lost node, is assigned again. That
changes nothing if it had been appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.rainstorm.job.segment import PUBLISH_TIMEOUT_S, Reference
from agent.rainstorm.leader.core.joblog import JobState

# Committed output that waits for the destination file is held in the memory of agents.
UNPUBLISHED_BYTES_MAX = 64 * 1024 * 1024

Entry = tuple[int, str, tuple[Reference, ...]]


@dataclass(frozen=True, slots=True)
class Order:
    """The assignment of one output to the node that publishes it."""

    node: str
    epoch: int
    task: str
    references: tuple[Reference, ...]


class Publication:
    """The unpublished output of one job; it is kept in step with ``state``, the state of the job."""

    def __init__(self, state: JobState) -> None:
        self._state = state
        self._logged = state.published
        self._given: dict[tuple[int, str], tuple[str, float]] = {}
        self._confirmed: list[Entry] = []

    @property
    def done(self) -> bool:
        """Tells whether all committed output is in the destination."""
        return not self._state.unpublished

    def backlog(self) -> bool:
        """Tells whether so much output waits that no more should be produced."""
        pieces = (reference for _, _, references in self._state.unpublished for reference in references)
        return sum(length for _, _, length in pieces) > UNPUBLISHED_BYTES_MAX

    def next(self, now: float, nodes: Sequence[str]) -> list[Order]:
        """Returns the next assignment of every sink task that has none in progress."""
        given: list[Order] = []
        busy = {task for _, task in self._given}
        for epoch, task, references in self._state.unpublished:
            if task in busy or not nodes:
                continue
            busy.add(task)
            node = self._state.placement.get(task, "")
            node = node if node in nodes else nodes[0]
            self._given[epoch, task] = (node, now)
            given.append(Order(node, epoch, task, references))
        return given

    def confirm(self, epoch: int, task: str) -> bool:
        """Notes that an epoch's output is in the destination; returns False when that was known."""
        state, key = self._state, (epoch, task)
        found = [entry for entry in state.unpublished if entry[:2] == key]
        if not found:
            return False
        self._given.pop(key, None)
        self._confirmed += found
        state.unpublished = [entry for entry in state.unpublished if entry[:2] != key]
        first_left = min((entry[0] for entry in state.unpublished), default=state.epoch + 1)
        state.published = max(state.published, first_left - 1)
        return True

    def in_progress(self, epoch: int, task: str) -> bool:
        """Tells whether a node was told to publish this and has not answered."""
        return (epoch, task) in self._given

    def lose(self, node: str) -> None:
        """Forgets the assignments of a lost node."""
        self._given = {key: told for key, told in self._given.items() if told[0] != node}

    def expire(self, now: float) -> None:
        """Forgets the assignments that were not confirmed in time."""
        self._given = {key: told for key, told in self._given.items() if now - told[1] <= PUBLISH_TIMEOUT_S}

    def log(self, epoch: int) -> None:
        """Notes that the job log records everything up to ``epoch`` as published."""
        self._logged = max(self._logged, epoch)
        self._confirmed = [entry for entry in self._confirmed if entry[0] > self._logged]

    def confirmed_only(self) -> list[Entry]:
        """Returns the output that is published but not logged so: the next leader would publish it again."""
        return list(self._confirmed)
