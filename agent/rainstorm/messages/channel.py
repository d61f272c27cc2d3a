"""The messages between tasks on their channels; the tuples of a batch are the payload of its frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import Counter, Message, Vocabulary
from agent.rainstorm.job.names import TaskName


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message on a channel: the task that connects, and its generation."""

    sender: TaskName
    generation: Counter

    def encode(self) -> dict[str, Any]:
        """Returns the message as plain values."""
        return {"from": self.sender, "generation": self.generation}

    @classmethod
    def decode(cls, fields: dict[str, Any]) -> Hello:
        """Returns the message that plain values hold.

        Raises:
            InvalidMessage: they hold something else.
        """
        if "from" not in fields:
            raise InvalidMessage("hello of a task: field `from` is missing")
        return message.decode(cls, {**fields, "sender": fields["from"]}, "hello of a task")


@dataclass(frozen=True, slots=True)
class Batch(Message):
    """Tuples, as an Arrow stream in the payload."""

    kind: ClassVar[str] = "batch"


@dataclass(frozen=True, slots=True)
class Barrier(Message):
    """All tuples of the epoch have been sent."""

    kind: ClassVar[str] = "barrier"
    epoch: Counter


@dataclass(frozen=True, slots=True)
class End(Message):
    """No more tuples will come; barriers still do."""

    kind: ClassVar[str] = "end"


Item = Batch | Barrier | End
CHANNEL: Vocabulary[Item] = Vocabulary("message on a channel", Batch, Barrier, End, tag="t")
