"""The seam: the installed platform serves, and the previous one is restored."""

from __future__ import annotations

import pytest

from agent.common.shell import seam
from agent.common.shell.seam import REAL, Seam


def test_the_real_machine_serves_unless_another_is_installed() -> None:
    assert seam.current() is REAL
    assert (REAL.threads, REAL.network, REAL.disk, REAL.processes) == (None, None, None, None)


def test_a_seam_serves_for_the_length_of_a_block_even_if_that_fails() -> None:
    outer, inner = Seam(disk="outer"), Seam(disk="inner")

    def fail() -> None:
        with seam.use(inner):
            assert seam.current() is inner
            raise ValueError("failed")

    with seam.use(outer):
        with pytest.raises(ValueError, match="failed"):
            fail()
        assert seam.current() is outer
    assert seam.current() is REAL


def test_a_switch_returns_what_was_installed() -> None:
    other = Seam(threads="other")
    assert seam.switch(other) is REAL
    assert seam.switch(REAL) is other
