"""Reports that are refreshed in place."""

from __future__ import annotations

import sys

import pytest

from agent.common.errors import Unreachable
from ops.output import watch


def test_a_frame_fits_the_terminal_and_covers_the_last_one() -> None:
    assert watch.frame("a\nb\n", 24) == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"
    tall = watch.frame("\n".join(map(str, range(30))), 10)
    assert tall.count("\n") == 9
    assert "... 22 more lines do not fit" in tall


def test_an_outage_does_not_end_it_and_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    looks = 0

    def report() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise Unreachable("nothing answers")
        if looks == 3:
            raise KeyboardInterrupt
        print(f"look {looks}")

    out = sys.stdout
    watch.watch(report, interval_s=0.0)
    assert sys.stdout is out
    assert capsys.readouterr().out == "[UNREACHABLE] nothing answers\n\nlook 2\n"
