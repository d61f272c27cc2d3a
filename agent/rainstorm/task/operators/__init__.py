"""The operators, one per file: pure functions on record batches and keyed state."""

from __future__ import annotations

from agent.rainstorm.job.plan import OperatorPlan
from agent.rainstorm.task.operators.aggregate import AggregateByKey
from agent.rainstorm.task.operators.base import Operator
from agent.rainstorm.task.operators.combine import Combine, Project
from agent.rainstorm.task.operators.filter import Filter
from agent.rainstorm.task.operators.identity import Identity
from agent.rainstorm.task.operators.transform import Transform

REGISTRY: dict[str, type[Operator]] = {
    "identity": Identity,
    "filter": Filter,
    "transform": Transform,
    "combine": Combine,
    "project": Project,
    "aggregate-by-key": AggregateByKey,
}


def build(plan: OperatorPlan) -> Operator:
    """Returns a fresh operator for a step of a chain."""
    return REGISTRY[plan.operator](plan.options, plan.columns)
