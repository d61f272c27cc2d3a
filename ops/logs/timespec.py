"""Parses times as operators write them: ``10m`` (ago), ``2026-11-20T10:24``, ``10:24`` (today, UTC)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from agent.common.errors import UsageError
from agent.common.shell import clock

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_instant(text: str, now: float | None = None) -> float | None:
    """Returns a time in seconds since 1970, or None for an empty text.

    Raises:
        UsageError: the text is not a time.
    """
    if not text:
        return None
    now = clock.wall() if now is None else now
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if ago:
        return now - float(ago[1]) * UNITS_S[ago[2]]
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
            text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}T{text}"
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time", hint="write 10m, 2h, 1d (ago), 10:24 or 2026-11-20T10:24:05 (UTC)"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
