"""H1 at the moment of the answer: an append that is acknowledged is durable on as many disks as it says.

Looks at the medium itself, not at what an agent believes: the bytes of a record are unique, and must be in a
file that a loss of power would leave, in the journal or in the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from agent.hydfs.core import filetable
from agent.hydfs.core.events import AnswerAppend, AppendRequested
from agent.hydfs.shell.replica import Replicas
from tests.simulation.machine.cluster import DATA_FOLDER
from tests.simulation.machine.host import Node

FOLDER = f"{DATA_FOLDER}/hydfs"


class Copies:
    """Looks for the copies of what is acknowledged; ``problems`` tells of those that are missing."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.problems: list[str] = []
        # Nodes that lost what they had answered for: their disk was replaced, or a bit of it flipped.
        self.bereft: dict[str, None] = {}
        self._nodes = nodes
        self._requests: dict[Any, AppendRequested] = {}

    def _check(self, replicas: Replicas, answer: AnswerAppend) -> None:
        request = self._requests.pop(answer.token, None)
        if request is None or answer.duplicate:
            return
        coordinator = replicas.core.coordinators.get(request.key)
        if coordinator is None:
            return
        opened, data = coordinator.opened, bytes(request.data)
        holders = [name for name in opened.replicas if name in self.bereft or self._has(name, data)]
        if len(holders) < filetable.needed_acks(opened.ack, len(opened.replicas)):
            self.problems.append(
                f"H1: acknowledged with ack={opened.ack} at {answer.offset} of {request.key}, "
                f"durable only on {holders} of {opened.replicas}: {data!r}"
            )

    def _has(self, name: str, data: bytes) -> bool:
        return any(data in content for content in self._nodes[name].disk.durable_contents(FOLDER))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches every coordinator of the run."""
        post, execute = Replicas.post, Replicas.execute

        def posted(replicas: Replicas, event: Any) -> None:
            if isinstance(event, AppendRequested):
                self._requests[event.token] = event
            post(replicas, event)

        def executed(replicas: Replicas, effect: Any) -> None:
            if isinstance(effect, AnswerAppend):
                self._check(replicas, effect)
            execute(replicas, effect)

        with (
            mock.patch.object(Replicas, "post", posted),
            mock.patch.object(Replicas, "execute", executed),
        ):
            yield
