"""Clients of the stores: they append, read, put, delete, stall, abort, and are killed.

The actions of a client are drawn before the run. A client that was killed continues with the next action in
a new process, like a user who types the next command.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

from agent.common.errors import AlreadyExists, NotFound, RainStormError
from agent.common.shell import threads
from agent.hydfs.client import HydfsClient
from agent.hydfs.messages import file as messages
from agent.wire import auth
from agent.wire.client import Address, Client
from agent.wire.messages import Ping
from tests.simulation.machine.cluster import OPERATOR, Cluster
from tests.simulation.store.history import History, Seen

LOG = "log"
NAMES = ("a", "b", "c")
BLOCK_BYTES = 512
LINE_BYTES_MIN, LINE_BYTES_MAX = 10, 120
ATTEMPT_S = 2.0
RETRY_S = 0.1
# A put of nearly three blocks: as many as one agent keeps in memory.
FILE_BYTES_MAX = 3 * BLOCK_BYTES - 100
# Longer than an agent waits for a client that stalls (``limits.IDLE_S``).
STALL_S_MAX = 8.0
# So many actions follow when the faults are over, to show that everything works again.
LAST_ACTIONS = 2


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its kind, the pause before it, its file, and its own random number."""

    kind: str
    pause_s: float
    name: str
    chance: random.Random


class Interrupted(Exception):
    """Ctrl-C, in the middle of a put."""


class StoreClient:
    """One client; ``run`` does one action after the other in its current process."""

    def __init__(self, cluster: Cluster, history: History, name: str, actions: list[Action]) -> None:
        self.cluster = cluster
        self.history = history
        self.name = name
        self.is_done = False
        # Counts the moments that the actions hit, by name.
        self.hit: Callable[[str], None] = lambda moment: None
        self._actions = actions
        self._next = 0
        self._sequence = 0
        self._client: Client | None = None
        self.process = cluster.client(name)

    def start(self) -> None:
        """Starts the client."""
        self.process.start("client", self.run)

    def kill(self) -> None:
        """Ends the client's process as kill -9 does; a new one continues with the next action."""
        if self.is_done:
            return
        self.hit("client killed")
        self.cluster.scheduler.kill(self.process)
        self.process = self.cluster.client(self.name)
        self.process.start("client", self.run)

    def run(self) -> None:
        """Does the remaining actions."""
        self._client = Client(auth.client_context(OPERATOR))
        while self._next < len(self._actions):
            action = self._actions[self._next]
            self._next += 1
            threads.sleep(action.pause_s)
            getattr(self, f"_{action.kind}")(action)
        self.is_done = True
        self.hit("client done")

    def come_to_an_end(self) -> None:
        """Drops most of the remaining actions: only the damage of the faults matters now."""
        del self._actions[self._next + LAST_ACTIONS :]

    def check_connections(self, *, of_agents: bool) -> None:
        """Uses idle connections: in a healthy cluster each request is answered at once.

        With ``of_agents`` each agent has to use its own connections to the others for the answer.
        """
        for node in self.cluster.living():
            target = Address(node.address, node.config.me.hydfs_port, node.name)
            if of_agents:
                HydfsClient(self._connected(), target).stat(LOG, timeout_s=ATTEMPT_S)
            else:
                self._connected().ask(target, Ping(), timeout_s=ATTEMPT_S)

    def close(self) -> None:
        """Closes the client's connections."""
        if self._client is not None:
            self._client.close()

    def hydfs(self, chance: random.Random) -> HydfsClient:
        """Returns a client of some agent."""
        return HydfsClient(self._connected(), self._target(chance))

    def _target(self, chance: random.Random) -> Address:
        node = self.cluster.nodes[chance.choice(list(self.cluster.nodes))]
        return Address(node.address, node.config.me.hydfs_port, node.name)

    def _connected(self) -> Client:
        assert self._client is not None
        return self._client

    # -- the log --------------------------------------------------------------------------------------

    def _append(self, action: Action) -> None:
        self._sequence += 1
        size = action.chance.randint(LINE_BYTES_MIN, LINE_BYTES_MAX)
        line = f"{self.name}:{self._sequence}:".encode().ljust(size, b".") + b"\n"
        self.history.invoked[self.name, self._sequence] = line
        self.history.invoked_at[line] = threads.monotonic()
        while True:
            try:
                hydfs = self.hydfs(action.chance)
                found = hydfs.append(
                    LOG, line, writer=self.name, sequence=self._sequence, timeout_s=ATTEMPT_S
                )
            except NotFound:
                self._create_log(action)
                continue
            except RainStormError:
                threads.sleep(RETRY_S)  # the outcome is unknown: the same append again
                continue
            self.hit("append found done" if found.duplicate else "append acknowledged")
            self.history.acked.append((threads.monotonic(), self.name, self._sequence, found.offset))
            return

    def _create_log(self, action: Action) -> None:
        try:
            self.hydfs(action.chance).create(LOG, timeout_s=ATTEMPT_S)
        except RainStormError:
            threads.sleep(RETRY_S)  # another client makes it, or will make it

    def _read_log(self, action: Action) -> None:
        began = threads.monotonic()
        try:
            data = bytes(self.hydfs(action.chance).read(LOG, 0, 1 << 20, timeout_s=ATTEMPT_S))
        except RainStormError:
            return
        self.history.reads.append((began, threads.monotonic(), self.name, data))

    # -- whole files ----------------------------------------------------------------------------------

    def _put(self, action: Action) -> None:
        content = self._content(action)
        version = self.history.put_begins(action.name, content, threads.monotonic())
        try:
            self.hydfs(action.chance).put(action.name, _Source(content, action.chance), timeout_s=20.0)
        except Interrupted:
            self.hit("put interrupted")
            return
        except AlreadyExists:
            return
        except RainStormError:
            self.hit("put failed")
            return
        self.hit("file stored")
        version.acked_at = threads.monotonic()

    def _aborted_put(self, action: Action) -> None:
        """Puts a file and aborts it through another connection while a piece is on its way."""
        content = self._content(action)
        self.history.put_begins(action.name, content, threads.monotonic())
        client, target = self._connected(), self._target(action.chance)
        try:
            begun = client.ask(target, messages.BeginPut(action.name), timeout_s=ATTEMPT_S).message
        except RainStormError:
            return
        sender = threads.start("pieces", self._send_pieces, target, begun, content)
        threads.sleep(action.chance.uniform(0.0, 0.03))
        self.hit("put aborted")
        for _ in range(action.chance.choice((1, 1, 2))):
            try:
                client.ask(target, messages.AbortPut(begun.file_id), timeout_s=ATTEMPT_S)
            except RainStormError:
                threads.sleep(RETRY_S)
        sender.join()

    def _send_pieces(self, target: Address, begun: messages.PutBegun, content: bytes) -> None:
        client = self._connected()
        try:
            for offset in range(0, len(content), begun.piece_bytes):
                piece = content[offset : offset + begun.piece_bytes]
                client.ask(target, messages.PutPiece(begun.file_id, offset), piece, timeout_s=ATTEMPT_S)
            client.ask(target, messages.CommitPut(begun.file_id, len(content)), timeout_s=ATTEMPT_S)
        except RainStormError:
            return  # it was aborted, or the agent is gone

    def _cut_put(self, action: Action) -> None:
        """Puts a file and loses all connections half-way."""
        content = self._content(action)
        self.history.put_begins(action.name, content, threads.monotonic())
        client = self._connected()
        threads.start("put", _try_to_put, HydfsClient(client, self._target(action.chance)), action, content)
        threads.sleep(action.chance.uniform(0.0, 0.03))
        client.close()
        self._client = Client(auth.client_context(OPERATOR))

    def _get(self, action: Action) -> None:
        began, sink = threads.monotonic(), io.BytesIO()
        hydfs = self.hydfs(action.chance)
        content: bytes | None = None
        try:
            hydfs.stat(action.name, timeout_s=ATTEMPT_S)
            hydfs.get(action.name, sink, timeout_s=5.0)
            content = sink.getvalue()
        except NotFound as error:
            if "changed" in error.message or sink.tell():
                return  # it was deleted while it was read
            self.hit("file not found")
        except RainStormError:
            return
        self.history.seen.append(Seen(action.name, content, began, threads.monotonic()))

    def _delete(self, action: Action) -> None:
        began = threads.monotonic()
        self.history.delete_begins(action.name, began)
        try:
            self.hydfs(action.chance).delete(action.name, timeout_s=5.0)
        except NotFound:
            # Or the answer to a first attempt was lost: that attempt may still delete a later put.
            self.history.seen.append(Seen(action.name, None, began, threads.monotonic()))
            return
        except RainStormError:
            return
        self.hit("file deleted")
        self.history.delete_ends(action.name, began, threads.monotonic())

    def _look(self, action: Action) -> None:
        """Makes the requests of operators."""
        hydfs = self.hydfs(action.chance)
        try:
            hydfs.list("", timeout_s=ATTEMPT_S)
            hydfs.store(timeout_s=ATTEMPT_S)
            hydfs.health(timeout_s=ATTEMPT_S)
        except RainStormError:
            return

    def _content(self, action: Action) -> bytes:
        size = action.chance.randint(20, FILE_BYTES_MAX)
        return (f"{self.name}/{self._next}/".encode() * (size // 4))[:size]


class _Source(io.BytesIO):
    """The bytes of a put: it may stall, or be interrupted, before any piece."""

    def __init__(self, content: bytes, chance: random.Random) -> None:
        super().__init__(content)
        self._chance = chance
        self._mood = chance.choice(("quick", "quick", "quick", "stalls", "interrupted"))

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next piece."""
        if self._mood == "stalls":
            threads.sleep(self._chance.choice((0.02, 0.3, STALL_S_MAX)))
        elif self._mood == "interrupted" and self._chance.random() < 0.4:
            raise Interrupted
        return super().read(size)


def _try_to_put(hydfs: HydfsClient, action: Action, content: bytes) -> None:
    try:
        hydfs.put(action.name, io.BytesIO(content), timeout_s=5.0)
    except RainStormError:
        return


def planned(seed: int | str, name: str, kinds: dict[str, int], count: int, pause_s: float) -> list[Action]:
    """Returns ``count`` actions of a client, of these kinds, by their weights."""
    rng = random.Random(f"{seed}:{name}")
    chosen = rng.choices(list(kinds), list(kinds.values()), k=count)
    return [
        Action(kind, rng.expovariate(1.0) * pause_s, rng.choice(NAMES), random.Random(rng.getrandbits(64)))
        for kind in chosen
    ]
