"""Deletes collected logs that exceed the age or the total size that the configuration allows."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from agent.common.config import LogsConfig
from agent.common.errors import RainStormError
from agent.common.shell import clock
from agent.hydfs.client import HydfsClient
from agent.logs.shell.archive import PREFIX

logger = logging.getLogger("agent.logs.shell.retention")

# Each file covers one day: once an hour is precise enough.
INTERVAL_S = 3600.0


class Retention:
    """Keeps one node's collected logs within their age and size; the newest file of each log stays."""

    def __init__(self, node: str, knobs: LogsConfig, hydfs: HydfsClient) -> None:
        self._prefix = f"{PREFIX}{node}/"
        self._knobs = knobs
        self._hydfs = hydfs
        self._ran_at = float("-inf")

    def run(self) -> None:
        """Deletes what is due, if the last run was long enough ago; a failure is retried in the next run."""
        now = clock.monotonic()
        if now - self._ran_at < INTERVAL_S:
            return
        self._ran_at = now
        try:
            self._delete(
                datetime.fromtimestamp(clock.wall(), UTC) - timedelta(days=self._knobs.collected_days)
            )
        except RainStormError as error:
            logger.info("retention_waits error=%s", error)

    def _delete(self, oldest: datetime) -> None:
        found = sorted(self._hydfs.list(self._prefix), key=lambda each: each.name)
        newest = {stat.name.rpartition("/")[0]: stat.name for stat in found}
        total = sum(stat.length for stat in found)
        for stat in sorted(found, key=lambda each: each.name.rpartition("-")[2]):
            is_recent = stat.name.rpartition("-")[2] >= oldest.strftime("%Y%m%d")
            if stat.name in newest.values() or (is_recent and total <= self._knobs.collected_bytes):
                continue
            self._hydfs.delete(stat.name)
            total -= stat.length
            logger.info("collected_deleted file=%s bytes=%d", stat.name, stat.length)
