"""Barrier alignment of one task (Carbone et al. 2015, "Lightweight Asynchronous Snapshots", section 4.2).

A barrier on a channel says that all tuples of the epoch have come in on it. Until all channels have delivered
the barrier, the task must not take from those that have; otherwise tuples of the next epoch would get into
this one's snapshot. A channel that has ended still delivers barriers. Without exactly-once nothing is held
back: barriers are only counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.common.errors import ProtocolError


class Alignment:
    """The channels that are held back, and those that have ended."""

    def __init__(self, channels: Sequence[str], *, exactly_once: bool) -> None:
        self._channels = tuple(channels)
        self._exactly_once = exactly_once
        self._delivered: dict[str, int] = {}
        self._ended: dict[str, bool] = {}
        self._epoch = 0

    def reset(self, epoch: int) -> None:
        """Starts over after ``epoch``."""
        self._delivered = {}
        self._ended = {}
        self._epoch = epoch

    def blocked(self, channel: str) -> bool:
        """Tells whether the task must not take from ``channel`` now."""
        return self._exactly_once and self._delivered.get(channel, 0) > self._epoch

    def barrier(self, channel: str, epoch: int) -> int | None:
        """Records a barrier; returns the epoch that all channels have now reached, if it is a new one.

        Raises:
            ProtocolError: the barriers of a channel do not count upwards.
        """
        if epoch <= self._delivered.get(channel, self._epoch):
            raise ProtocolError(f"barrier {epoch} on channel {channel} after {self._delivered.get(channel)}")
        self._delivered[channel] = epoch
        reached = min(self._delivered.get(name, self._epoch) for name in self._channels)
        if reached <= self._epoch:
            return None
        self._epoch = reached
        return reached

    def end(self, channel: str) -> bool:
        """Records the end of a channel; returns True when it was the last one."""
        if channel in self._ended:
            return False
        self._ended[channel] = True
        return len(self._ended) == len(self._channels)
