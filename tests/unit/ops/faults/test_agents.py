"""How operators write the names of agents and signals."""

from __future__ import annotations

import signal

import pytest

from agent.common.errors import UsageError
from ops.faults.agents import check_service, check_signal


def test_signals_by_name_and_number() -> None:
    for typed in ("KILL", "sigkill", "9"):
        assert check_signal(typed) is signal.SIGKILL
    with pytest.raises(UsageError, match="'USR1'"):
        check_signal("USR1")


def test_a_misspelt_agent_is_named() -> None:
    assert check_service("hydfs") == "hydfs"
    with pytest.raises(UsageError) as caught:
        check_service("hydsf")
    assert "hydfs" in caught.value.hint
