"""One tree of errors; each class has a stable code that the wire, ``--json`` and the exit status carry.

A message says what failed and the likely cause; ``hint`` is the next thing to try. ``retryable`` tells a
client that the same request may succeed later although nobody has changed anything.

Exit statuses: 1 the operation failed, 2 usage, 3 cluster unreachable, 4 partial, 5 time limit.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class RainStormError(Exception):
    """Base of every error that an operator or a peer can meet."""

    code: ClassVar[str] = "INTERNAL"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}

    def to_wire(self) -> dict[str, Any]:
        """Returns the error as plain values for a reply frame or ``--json``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}


class UsageError(RainStormError):
    """The request itself is wrong."""

    code = "USAGE"
    exit_status = 2


class ConfigError(UsageError):
    """A configuration file cannot be used."""

    code = "CONFIG_INVALID"


class JobInvalid(UsageError):
    """A job file cannot be run."""

    code = "JOB_INVALID"


class NameInvalid(UsageError):
    """A file name is not allowed."""

    code = "NAME_INVALID"


class ProtocolError(RainStormError):
    """A peer broke the wire protocol; the connection is closed."""

    code = "PROTOCOL_ERROR"


class InvalidMessage(ProtocolError):
    """A message has a field that is missing, of the wrong type or out of range; it was refused unread."""

    code = "INVALID_MESSAGE"


class FrameTooLarge(ProtocolError):
    """A frame is larger than the receiver accepts."""

    code = "FRAME_TOO_LARGE"


class Unreachable(RainStormError):
    """A peer or the whole cluster cannot be reached."""

    code = "UNREACHABLE"
    exit_status = 3
    retryable = True


class ConnectionLost(Unreachable):
    """The connection broke before the reply came: the outcome is unknown."""

    code = "CONNECTION_LOST"


class SshUnreachable(Unreachable):
    """A machine cannot be reached by SSH."""

    code = "SSH_UNREACHABLE"


class SshRefused(Unreachable):
    """A machine refuses our SSH login."""

    code = "SSH_REFUSED"
    retryable = False


class HostKeyUnknown(Unreachable):
    """A machine's SSH host key is in no known_hosts file."""

    code = "HOST_KEY_UNKNOWN"
    retryable = False


class HostKeyChanged(Unreachable):
    """A machine's SSH host key differs from the known one."""

    code = "HOST_KEY_CHANGED"
    retryable = False


class DeadlineExceeded(RainStormError):
    """The operation timed out: the outcome is unknown."""

    code = "DEADLINE_EXCEEDED"
    exit_status = 5
    retryable = True


class Overloaded(RainStormError):
    """A bounded queue is full."""

    code = "OVERLOADED"
    retryable = True


class StaleView(RainStormError):
    """The request was made under an older cluster view."""

    code = "STALE_VIEW"
    retryable = True


class NoMajority(RainStormError):
    """No majority of the voters answered."""

    code = "NO_MAJORITY"
    exit_status = 3
    retryable = True


class NotLeader(RainStormError):
    """This node is not the leader; ``details['leader']`` names who is, when known."""

    code = "NOT_LEADER"
    retryable = True


class Forbidden(RainStormError):
    """The caller may not ask for this."""

    code = "FORBIDDEN"


class NotFound(RainStormError):
    """The named thing does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(RainStormError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class Fenced(RainStormError):
    """A newer writer, generation or leader has taken over."""

    code = "FENCED"


class Conflict(RainStormError):
    """A condition of the request does not hold (for instance ``if_offset``)."""

    code = "CONFLICT"


class DuplicateIdentity(RainStormError):
    """Another node of the cluster has the same identity and was there first."""

    code = "DUPLICATE_ID"


class DiskFull(RainStormError):
    """The data folder of a node has no room left."""

    code = "DISK_FULL"
    retryable = True


def has_no_room(error: OSError) -> bool:
    """Tells whether a disk refused a write only because it, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class DiskFailed(RainStormError):
    """A disk returned an error; the agent stops rather than guess."""

    code = "DISK_FAILED"


class Corrupt(RainStormError):
    """Stored bytes do not match their checksum."""

    code = "CORRUPT"


class RecordTooLarge(RainStormError):
    """A record is larger than its log can hold; nothing was written."""

    code = "RECORD_TOO_LARGE"


class Unavailable(RainStormError):
    """No eligible replica can be reached, or not enough nodes are up."""

    code = "UNAVAILABLE"
    retryable = True


class PortInUse(RainStormError):
    """An address that the agent must listen on is taken."""

    code = "PORT_IN_USE"


class AlreadyRunning(RainStormError):
    """The cluster or agent is already running."""

    code = "ALREADY_RUNNING"


class NotRunning(RainStormError):
    """The cluster or agent is not running."""

    code = "NOT_RUNNING"
    exit_status = 3


class JobFailed(RainStormError):
    """A job ended without success."""

    code = "JOB_FAILED"


class Partial(RainStormError):
    """Some nodes succeeded or are healthy; others did not or are not."""

    code = "PARTIAL"
    exit_status = 4


class Internal(RainStormError):
    """A defect of ours; the log of the agent has the traceback."""

    code = "INTERNAL"


def by_code(root: type[RainStormError] = RainStormError) -> dict[str, type[RainStormError]]:
    """Returns the class of each code that this process knows."""
    # A class without its own code stays within its subsystem and must not replace its parent in this table.
    found = {root.code: root} if "code" in vars(root) else {}
    for child in root.__subclasses__():
        found.update(by_code(child))
    return found
