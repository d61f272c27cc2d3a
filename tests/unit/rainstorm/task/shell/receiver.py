"""A task that others connect to, for tests of channels and of arrivals."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agent.common.errors import ConnectionLost
from agent.common.shell import network
from agent.rainstorm.messages.channel import Hello
from agent.rainstorm.task.shell.arrivals import Arrivals
from agent.rainstorm.task.shell.channel import Channel, connect
from agent.rainstorm.task.shell.identity import JobIdentity
from agent.wire.authority import ephemeral_identity
from tests.support import wait_until

IDENTITY, OTHER = JobIdentity(ephemeral_identity("j-1")), JobIdentity(ephemeral_identity("j-1"))


class Receiver:
    """A listener whose arrivals are served while a test waits."""

    def __init__(self) -> None:
        self.listener = network.listen_tcp("127.0.0.1", 0)
        self.selector = network.selector()
        self.welcomed: list[tuple[Channel, Hello]] = []
        self.arrivals = Arrivals(
            self.listener, self.selector, lambda channel, hello: self.welcomed.append((channel, hello))
        )
        self.identity: JobIdentity | None = IDENTITY
        self.selector.register(self.listener, network.EVENT_READ, lambda: self.arrivals.accept(self.identity))

    @property
    def port(self) -> int:
        """Returns its port."""
        return int(self.listener.getsockname()[1])

    def serve_until(self, predicate: Callable[[], object], what: str) -> None:
        """Does what the main loop of a task does."""

        def once() -> object:
            for key, _ in self.selector.select(0.01):
                key.data()
            self.arrivals.drop_late()
            return predicate()

        wait_until(once, 5, what)

    def connect(self, identity: JobIdentity = IDENTITY) -> tuple[threading.Thread, list[Channel]]:
        """Connects in another thread."""
        made: list[Channel] = []

        def run() -> None:
            hello = Hello("0.0", 1)
            try:
                made.append(connect("127.0.0.1", "127.0.0.1", self.port, "1.0", hello, identity))
            except ConnectionLost:
                return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, made

    def close(self) -> None:
        """Ends everything."""
        self.arrivals.close()
        for channel, _ in self.welcomed:
            channel.close()
        self.selector.close()
        self.listener.close()
