"""H1 at the moment of the answer: an acknowledged append is durable on as many disks as the answer says.

It looks at the medium itself, not at the beliefs of an agent: the bytes of a record are unique, and must be
in the journal or the block's file, where a power failure would leave them.
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
    """Looks for the copies of acknowledged appends; ``problems`` names the missing ones."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.problems: list[str] = []
        # Nodes that lost acknowledged bytes: their disk was replaced, or a bit of it flipped.
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
