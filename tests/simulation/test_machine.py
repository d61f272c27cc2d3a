"""The machine finds the faults that real shells had, and finds nothing in their correct forms."""

from __future__ import annotations

import pytest

from tests.simulation.machine.both import equip
from tests.simulation.machine.scheduler import Scheduler, StepLimit, TimeLimit
from tests.simulation.machine_faults import FAULTS, HOST, Fault

# In the rarest fault, threads must meet within a few of hundreds of steps.
SEEDS = 300

pytestmark = pytest.mark.simulation_quick


def found(fault: Fault, right: bool, seed: int) -> list[str]:
    """Returns the findings of one seed at rest."""
    with Scheduler(seed, steps_max=50_000) as scheduler:
        equip(scheduler, HOST).start("main", fault.play, right)
        try:
            return scheduler.rest(quiet_s=20.0, limit_s=100.0)
        except (TimeLimit, StepLimit) as error:
            return [str(error)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found(fault: Fault) -> None:
    """Some seed shows it, with words that name it, and shows it again when repeated."""
    for seed in range(SEEDS):
        findings = found(fault, False, seed)
        if findings:
            assert any(fault.finding in line for line in findings), findings
            assert findings == found(fault, False, seed)
            return
    raise AssertionError(f"no seed below {SEEDS} finds it")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_right_form_passes(fault: Fault) -> None:
    """No seed finds anything."""
    for seed in range(60):
        assert found(fault, True, seed) == []
