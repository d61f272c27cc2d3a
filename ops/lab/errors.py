"""Errors that only the lab and faults raise."""

from __future__ import annotations

from agent.common.errors import UsageError


class NeedsRoot(UsageError):
    """The command changes mounts, networks or other users' processes."""

    code = "NEEDS_ROOT"


class MissingTool(UsageError):
    """A program of the host that the command calls is not installed."""

    code = "MISSING_TOOL"


class Unsupported(UsageError):
    """This kind of machine does not support the request."""

    code = "UNSUPPORTED"
