"""The names of jobs and tasks, as messages may carry them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.rainstorm.job.spec import STAGES_MAX, TASKS_PER_STAGE_MAX

# A job's id is part of file names.
JobName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
# ``<vertex>.<index>``.
TaskName = Annotated[str, Meta(pattern=r"\A[0-9]{1,3}\.[0-9]{1,3}\Z")]
# No job has more tasks than this.
TASKS_MAX = STAGES_MAX * TASKS_PER_STAGE_MAX
