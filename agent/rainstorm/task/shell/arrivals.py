"""Connections of upstream tasks that have not yet said which task they are.

A task never waits for one of them: handshake and hello are read as far as they have come in. A connection
that takes too long is closed, and so is the oldest when there are too many. So a stalled peer costs only its
own connection.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.common.errors import RainStormError
from agent.common.shell import clock, network
from agent.rainstorm.job.spec import TASKS_PER_STAGE_MAX
from agent.rainstorm.messages.channel import Hello
from agent.rainstorm.task.shell.channel import Channel
from agent.rainstorm.task.shell.identity import Identity

HELLO_TIMEOUT_S = 5.0
# Every task of the previous stage connects once in each generation.
ARRIVALS_MAX = TASKS_PER_STAGE_MAX
# A hello is a task's name and a number.
HELLO_BYTES_MAX = 1024

OnHello = Callable[[Channel, Hello], None]


class Arrivals:
    """Accepts connections and reads each hello as soon as the selector says that there are bytes."""

    def __init__(self, listener: network.Socket, selector: network.Selector, on_hello: OnHello) -> None:
        self._listener = listener
        self._selector = selector
        # Is given each connection with its hello, and closes it or keeps it.
        self._on_hello = on_hello
        # When each connection is closed if its hello has not come in; the oldest is first.
        self._deadlines: dict[Channel, float] = {}
        listener.setblocking(False)

    def accept(self, identity: Identity | None) -> None:
        """Takes the next connection; without an ``identity`` no one is expected, so it is closed."""
        try:
            plain, _ = self._listener.accept()
        except OSError:
            return  # the peer has already gone
        if identity is None:
            plain.close()
            return
        plain.setblocking(False)
        try:
            # The handshake is made by the reads below.
            sock = identity.server.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except OSError:
            plain.close()
            return
        if len(self._deadlines) >= ARRIVALS_MAX:
            self._drop(next(iter(self._deadlines)))
        channel = Channel(sock, "of unknown name")
        channel.frame_bytes_max = HELLO_BYTES_MAX
        self._deadlines[channel] = clock.monotonic() + HELLO_TIMEOUT_S
        self._selector.register(sock, network.EVENT_READ, lambda: self._read_hello(channel))

    def wait_s(self) -> float | None:
        """Returns how long the next connection may still take, or None when there is none."""
        first = next(iter(self._deadlines.values()), None)
        return None if first is None else max(0.0, first - clock.monotonic())

    def drop_late(self) -> None:
        """Closes the connections that have taken too long."""
        now = clock.monotonic()
        for channel in [channel for channel, at in self._deadlines.items() if at <= now]:
            self._drop(channel)

    def close(self) -> None:
        """Closes all connections that have not said who they are."""
        for channel in list(self._deadlines):
            self._drop(channel)

    def _read_hello(self, channel: Channel) -> None:
        if channel not in self._deadlines:
            return
        try:
            frame = channel.read()
            hello = None if frame is None else Hello.decode(frame.header)
        except RainStormError:
            self._drop(channel)  # gone, of another generation, or no task at all
            return
        if hello is not None:
            self._forget(channel)
            self._on_hello(channel, hello)

    def _drop(self, channel: Channel) -> None:
        self._forget(channel)
        channel.close()

    def _forget(self, channel: Channel) -> None:
        del self._deadlines[channel]
        self._selector.unregister(channel.sock)
