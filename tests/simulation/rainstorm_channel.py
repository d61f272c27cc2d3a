"""The connection between two simulated task processes.

It is a TCP connection of its own: ordered, delayed, with room for a few frames. A cut holds its bytes back
until it is mended (retransmission); the end of one process closes it for the other one, behind everything
that was sent before; a machine that dies says nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from agent.common.errors import ConnectionLost

if TYPE_CHECKING:
    from tests.simulation.rainstorm_task import TaskProcess

CHANNEL_FRAMES_MAX = 6
RETRANSMIT_S = 0.05


class Channel:
    """A one-way connection between two task processes, seen from both ends."""

    def __init__(self, sender: TaskProcess, receiver: TaskProcess, peer: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self.peer = peer
        self.arrived: deque[bytes] = deque()
        self.ended = False
        self.broken = False
        self._flying: deque[bytes | None] = deque()
        self._rng = sender.agent.node.random("channels")
        self._delay_s = self._rng.choice([0.0006, 0.0006, 0.01])

    @property
    def full(self) -> bool:
        """Tells whether the sender must wait."""
        return len(self._flying) + len(self.arrived) >= CHANNEL_FRAMES_MAX

    def send(self, data: bytes | None) -> None:
        """Sends a frame; None closes the connection behind it."""
        self._flying.append(data)
        if len(self._flying) == 1:
            self._fly()

    def take(self) -> bytes | None:
        """Returns the next frame that has come in, or None."""
        if self.arrived:
            self.sender.wake()
            return self.arrived.popleft()
        if self.ended:
            raise ConnectionLost(f"task {self.peer} closed its channel")
        return None

    def close(self, end: TaskProcess) -> None:
        """Closes the connection from one end."""
        if end is self.sender:
            self.send(None)
        elif not self.broken:
            self.broken = True
            self.sender.wake()

    def _fly(self) -> None:
        world = self.sender.agent.node.world
        world.after(0.0002 + self._rng.expovariate(1.0) * self._delay_s, self._land)

    def _land(self) -> None:
        node, other = self.sender.agent.node, self.receiver.agent.node
        world = node.world
        if self.broken:
            self._flying.clear()
            return
        if world.network.is_cut(node.name, other.name) or not self.receiver.node_lives():
            if self.receiver.node_lives():  # a dead machine takes nothing any more
                world.after(RETRANSMIT_S, self._land)
            return
        data = self._flying.popleft()
        if data is None:
            self.ended = True
        else:
            self.arrived.append(data)
        self.receiver.wake()
        if self._flying:
            self._fly()
