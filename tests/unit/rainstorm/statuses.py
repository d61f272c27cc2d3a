"""Statuses of jobs for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.common.failure import Failure
from agent.rainstorm.leader.core.status import unreadable
from agent.rainstorm.messages.status import JobStatus


def job_status(**changed: Any) -> JobStatus:
    """Returns the status of a job with the given fields; all others are unknown."""
    return replace(unreadable("j-1", 1.0, Failure(), "n1", 1), **{"error": None, **changed})
