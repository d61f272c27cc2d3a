"""The contract of operators, and the registry by which plans name them."""

from __future__ import annotations

from agent.rainstorm.job.plan import OperatorPlan
from agent.rainstorm.task import operators
from agent.rainstorm.task.operators.base import Operator
from tests.unit.rainstorm.rows import batch

KV = ("k", "v")


def test_every_step_of_a_plan_can_be_built() -> None:
    """The registry knows all names that plans use."""
    for name in operators.REGISTRY:
        built = operators.build(OperatorPlan(name, {"key": "k", "equals": "x"}, KV))
        assert (built.state is not None) == (name == "aggregate-by-key")


def test_an_operator_holds_nothing_back_by_itself() -> None:
    """It passes on everything that it takes, and nothing is left at the end of an epoch or of the input."""
    rows = batch(KV, [b"a", b"1"])
    operator = Operator({}, KV)
    assert operator.process(rows) == [rows]
    assert operator.end_epoch() == operator.end_input() == []
    operator.reset()
    assert operator.state is None
