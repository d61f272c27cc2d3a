"""Identity: passes every tuple on unchanged; used to test rates and delivery."""

from __future__ import annotations

from agent.rainstorm.task.operators.base import Operator


class Identity(Operator):
    """Passes every tuple on."""
