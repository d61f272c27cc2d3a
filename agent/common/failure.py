"""An error as a message: how a reply, a report or a log record describes a failure.

The code picks the class of the error on the other side; a code that this release does not know becomes
``Internal``, with the message and hint of the newer release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent.common import errors
from agent.common.errors import Internal, RainStormError
from agent.common.message import TEXT_CHARS_MAX, Name, Text

# An error with more details than this is a mistake; most have none.
DETAILS_MAX = 100


@dataclass(frozen=True, slots=True)
class Failure:
    """The fields of a ``RainStormError``."""

    code: Name = Internal.code
    message: Text = ""
    hint: Text = ""
    details: dict[Name, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: RainStormError) -> Failure:
        """Returns the message for an error: long texts are cut, invalid characters replaced."""
        details = dict(list(error.details.items())[:DETAILS_MAX])
        return cls(error.code, _text(error.message), _text(error.hint), details)

    def error(self) -> RainStormError:
        """Returns the error that this message describes."""
        kind = errors.by_code().get(self.code, Internal)
        return kind(self.message, hint=self.hint, details=dict(self.details))


def _text(value: str) -> str:
    return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
