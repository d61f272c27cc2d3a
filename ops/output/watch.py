"""Prints a report repeatedly: in place on a terminal, one below the other elsewhere.

Ctrl-C stops watching; the cluster is not affected.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from collections.abc import Callable

from agent.common.errors import RainStormError
from agent.common.shell import clock

INTERVAL_S = 1.0
HOME, CLEAR, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


class _Capture(io.StringIO):
    """Captures what a report prints, formatted as for the terminal itself."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Tells whether colours and boxes are wanted."""
        return self._terminal


def watch(report: Callable[[], None], *, interval_s: float = INTERVAL_S, plain: bool = False) -> None:
    """Prints ``report`` every ``interval_s`` until Ctrl-C; ``plain`` (for programs) never prints in place.

    An error does not end it, because a cluster that is unreachable for a while is worth watching.
    """
    in_place = sys.stdout.isatty() and not plain
    pause = threading.Event()
    first = True
    try:
        while True:
            begun = clock.monotonic()
            if in_place:
                text = _captured(report)
                sys.stdout.write((CLEAR if first else "") + frame(text, shutil.get_terminal_size().lines))
            elif plain:
                _tolerant(report)
            else:
                print(("" if first else "\n") + _captured(report), end="")
            sys.stdout.flush()
            first = False
            pause.wait(max(0.0, interval_s - (clock.monotonic() - begun)))
    except KeyboardInterrupt:
        print("", file=sys.stderr)


def frame(text: str, height: int) -> str:
    """Returns what to write to a terminal with ``height`` lines so that it shows only ``text``."""
    lines = text.splitlines()
    if len(lines) > height - 1:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: height - 2], f"... {hidden} more lines do not fit"]
    return HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_REST


def _captured(report: Callable[[], None]) -> str:
    out, err = sys.stdout, sys.stderr
    capture = _Capture(out.isatty())
    sys.stdout, sys.stderr = capture, capture
    try:
        _tolerant(report)
    finally:
        sys.stdout, sys.stderr = out, err
    return capture.getvalue()


def _tolerant(report: Callable[[], None]) -> None:
    try:
        report()
    except RainStormError as error:
        print(f"[{error.code}] {error.message}", file=sys.stderr)
