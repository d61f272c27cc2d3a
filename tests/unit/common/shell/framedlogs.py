"""Framed logs with numbered records, for the tests of the framed log."""

from __future__ import annotations

from agent.common.framedlog import Layout
from agent.common.shell.framedlog import FramedLog

LAYOUT = Layout(rb"[0-9]", body_bytes_max=20_000)
PATH = "/data/log"


def body(number: int) -> bytes:
    return b"%d:" % number * (1 + 397 * number % 1500)


def opened(path: str) -> tuple[FramedLog, list[bytes], bool]:
    """Returns a log, its records and whether its tail was cut."""
    log, found = FramedLog(path, LAYOUT), []

    def take(offset: int, body: bytes) -> None:
        found.append(body)

    return log, found, log.open(take)


def contents(path: str) -> list[bytes]:
    log, found, _ = opened(path)
    log.close()
    return found
