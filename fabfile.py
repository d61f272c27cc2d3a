"""The tasks of ``fab``; see ops/tasks."""

from ops.tasks import namespace as namespace
