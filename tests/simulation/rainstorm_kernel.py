"""Simulated threads and requests for the shells of the stream engine.

The shells of the agents block: a link waits for an answer, a writer for an append. Here such a thread is a
generator that yields a ``Pending`` wherever the real one blocks, so that a simulated shell reads line by line
like the one it mirrors. ``Rpc`` carries frames over the simulated network as datagrams: a request or its
answer may be lost (the caller's deadline passes), doubled (a retry on a fresh connection) or overtaken (each
connection has its own thread at the server).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any

from agent.common import message
from agent.common.core import Tick
from agent.common.errors import DeadlineExceeded, RainStormError, Unreachable
from agent.common.failure import Failure
from agent.wire.codec import framing
from tests.simulation.world import Node

Thread = Generator["Pending", Any, Any]
Settled = Callable[[Any, BaseException | None], None]


class Pending:
    """Something that a simulated thread waits for."""

    __slots__ = ("_settled", "result")

    def __init__(self) -> None:
        self.result: tuple[Any, BaseException | None] | None = None
        self._settled: Settled | None = None

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Ends the wait; the first time counts."""
        if self.result is None:
            self.result = (value, error)
            if self._settled is not None:
                self._settled(value, error)

    def then(self, settled: Settled) -> None:
        """Calls ``settled`` at the end of the wait."""
        self._settled = settled


def run_thread(thread: Thread, alive: Callable[[], bool], ended: Callable[[], None] | None = None) -> None:
    """Runs a generator until it waits, and on whenever its wait ends, while ``alive()``."""

    def resume(value: Any, error: BaseException | None) -> None:
        while alive():
            try:
                pending = thread.throw(error) if error is not None else thread.send(value)
            except StopIteration:
                if ended is not None:
                    ended()
                return
            if pending.result is None:
                pending.then(resume)
                return
            value, error = pending.result
        thread.close()

    resume(None, None)


def sleep(node: Node, delay_s: float) -> Pending:
    """Returns what ends after ``delay_s``."""
    pending = Pending()
    node.after(delay_s, pending.settle)
    return pending


class Worker:
    """Mirrors ``writers.Worker``: a thread that works off a queue in order."""

    def __init__(self, work: Callable[[Any], Thread]) -> None:
        self.queue: deque[Any] = deque()
        self._work = work
        self._busy = False

    def put(self, item: Any) -> None:
        """Queues work."""
        self.queue.append(item)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self.queue)
        if self._busy:
            run_thread(self._work(self.queue.popleft()), lambda: True, self._next)


class Runner:
    """Mirrors ``CoreRunner``: events wait in an inbox, the core takes them one after the other."""

    def __init__(
        self,
        node: Node,
        core: Any,
        execute: Callable[[Any], None],
        observe: Callable[[Any, list[Any]], None] | None = None,
    ) -> None:
        self.core = core
        self._observe = observe
        self._node = node
        self._execute = execute
        self._rng = node.random("runner")
        self._inbox: deque[Any] = deque()
        self._awake = False

    def post(self, event: Any) -> None:
        """Queues an event."""
        self._inbox.append(event)
        if not self._awake:
            self._awake = True
            self._node.after(self._rng.uniform(0.00001, 0.0002), self._drain)

    def tick(self) -> None:
        """Mirrors the time-out of an empty inbox."""
        self._inbox.append(Tick())
        self._drain()

    def next_deadline(self) -> float | None:
        """Returns when ``tick`` is due; what waits in the inbox comes first."""
        deadline: float | None = self.core.next_deadline()
        return None if self._awake else deadline

    def _drain(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            effects = self.core.handle(self._node.now, event)
            if self._observe is not None:
                self._observe(event, effects)
            for effect in effects:
                self._execute(effect)
            self.core.check_invariants()
        self._awake = False


class Rpc:
    """One node's client and server; ``serve(sender, header)`` returns the fields of the answer or raises."""

    def __init__(self, node: Node, serve: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> None:
        self._node = node
        self._serve = serve
        self._waiting: dict[str, Pending] = {}
        self._count = 0
        self._rng = node.random("rpc")

    def call(self, target: str, kind: str, fields: Mapping[str, Any], timeout_s: float) -> Pending:
        """Sends a request; the wait ends with the answer's header or with an error."""
        self._count += 1
        number = f"{self._node.name}/{self._node.generation}/{self._count}"
        pending = self._waiting[number] = Pending()
        data = framing.encode(framing.Frame({**fields, "type": kind, "id": number}))
        self._node.send_datagram(target, data)
        late = DeadlineExceeded(f"no answer from {target}")
        self._node.after(timeout_s, lambda: self._settle(number, None, late))
        peer, network = self._node.world.nodes[target], self._node.world.network
        if not peer.up and not network.is_cut(self._node.name, target) and self._rng.random() < 0.7:
            # The machine lives, only its agent does not: the connection is refused at once.
            refused = Unreachable(f"nobody listens at {target}")
            self._node.after(0.001, lambda: self._settle(number, None, refused))
        return pending

    def on_message(self, sender: str, data: bytes) -> None:
        """Takes a frame: a request or the answer to one."""
        header = framing.decode(data).header
        if "reply" in header:
            error = message.decode(Failure, header["error"]).error() if header["error"] else None
            self._settle(header["reply"], header, error)
            return
        answer: dict[str, Any] = {"reply": header["id"], "error": None}
        try:
            answer.update(self._serve(sender, header))
        except RainStormError as refused:
            answer["error"] = refused.to_wire()
        self._node.send_datagram(sender, framing.encode(framing.Frame(answer)))

    def _settle(self, number: str, value: Any, error: BaseException | None) -> None:
        pending = self._waiting.pop(number, None)
        if pending is not None:
            pending.settle(value, error)
