"""Processes that make requests to an agent, several at a time over one client, and check the answers.

W1 a call ends by its deadline, whatever the peer does; W2 an answer, with its payload and file, belongs to
its question; W5 a client that is closed ends its calls at once.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from agent.common.errors import RainStormError
from agent.common.shell import disk, network, seam, threads
from agent.wire import auth
from agent.wire.client import CONNECT_TIMEOUT_S, Address, Client, Target
from agent.wire.connection import FileSlice
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.host import Machine
from tests.simulation.wire.agent import CONTENT, FILE, FILE_BYTES, WIRE, Echo, Fail, OpenFile, ReadFile, Wait

if TYPE_CHECKING:
    from tests.simulation.machine.process import Process
    from tests.simulation.wire.cluster import WireCluster

TIMEOUTS_S = (0.05, 0.3, 1.0, 3.0, 6.0)
THINK_S_MAX = 0.2
# How long a call may take beyond its deadline: a few steps, with threads that are suspended for a moment.
SLACK_S = 0.1
# A closed client wakes the threads that wait for its sockets; connecting ends within its own limit.
CLOSED_S = CONNECT_TIMEOUT_S + 0.1
SMALL, BIG = 100, 100_000
PARTS = 6


class Caller:
    """One process with a client and some threads that use it."""

    def __init__(self, cluster: WireCluster, machine: Machine, targets: list[str], threads_max: int) -> None:
        self.machine = machine
        self.is_paused = False
        self._cluster = cluster
        self._names = targets
        self._threads_max = threads_max
        self._stopping = False
        self._number = 0
        self.outcomes: Counter[str] = Counter()
        self._in_progress: Counter[Client] = Counter()
        self.process: Process = self._begin()

    @property
    def is_idle(self) -> bool:
        """Tells whether no call is in progress."""
        return self.process.dead or not self.process.threads

    @property
    def places(self) -> int:
        """Returns how many calls the clients believe to be in progress."""
        return 0 if self.process.dead else self._tls.busy + self._local.busy

    def stop(self) -> None:
        """Stops beginning calls."""
        self._stopping = True

    def kill(self) -> None:
        """Kills the process."""
        self._cluster.scheduler.kill(self.process)

    def restart(self) -> None:
        """Starts again in a new process, unless it is running."""
        if self.process.dead and self.machine.is_on:
            self._stopping = False
            self.process = self._begin()

    def close_client(self) -> None:
        """Closes the client in the middle of its calls, and continues with another one."""
        self.process.start("close", self._close)

    def _begin(self) -> Process:
        process = self.machine.process("caller")
        with seam.use(process.seam):
            self._tls, self._local = Client(auth.client_context(OPERATOR)), Client(None)
        for index in range(self._threads_max):
            process.start(f"caller-{index}", self._run)
        return process

    def _close(self) -> None:
        before, self._tls = self._tls, Client(auth.client_context(OPERATOR))
        before.close()
        threads.sleep(CLOSED_S)
        left = self._in_progress[before]
        self._cluster.require(
            not left or self.is_paused, f"W5: {left} calls of {self.machine.name} wait on a closed client"
        )

    def _run(self) -> None:
        chance = threads.random_source()
        while not self._stopping:
            name = chance.choice(self._names)
            self.call(name, chance.choice(TIMEOUTS_S), chance.randrange(1 << 30))
            threads.sleep(chance.random() * THINK_S_MAX)

    def finish(self, name: str, timeout_s: float) -> str:
        """Makes one more call, in a separate thread, and returns its outcome."""
        return self.call(name, timeout_s, 0)

    def call(self, name: str, timeout_s: float, draw: int) -> str:
        """Makes one call, whose kind and size depend on ``draw``."""
        self._number += 1
        number, began = self._number, threads.monotonic()
        client, target = self._tls, self._target(name)
        if isinstance(target, str):
            client = self._local
        self._in_progress[client] += 1
        try:
            self._ask(client, target, number, timeout_s, draw)
            outcome = "answered"
        except RainStormError as error:
            outcome = error.code
        finally:
            self._in_progress[client] -= 1
        took_s = threads.monotonic() - began
        self.outcomes[outcome] += 1
        late = took_s > timeout_s + SLACK_S + self._cluster.stalled_s and not self.is_paused
        what = f"call {draw % 8} of {self.machine.name} to {target}"
        self._cluster.require(not late, f"W1: {what} took {took_s:.3f} s of {timeout_s:g} s: {outcome}")
        return outcome

    def _target(self, name: str) -> Target:
        node = self._cluster.nodes[name]
        if self.machine is node:
            return node.config.socket_path(WIRE)
        return Address(node.address, node.config.me.hydfs_port, name)

    def _ask(self, client: Client, target: Target, number: int, timeout_s: float, draw: int) -> None:
        sort, size = draw % 8, BIG if draw % 3 == 0 else SMALL
        match sort:
            case 0 | 1:
                data = number.to_bytes(4, "big") * (size // 4)
                found = client.ask(target, Echo(number, 2), data, timeout_s=timeout_s)
                self._check(found.message.number == number and bytes(found.payload) == data * 2, "echo")
            case 2:
                seconds = draw % 6000 / 1000
                answer = client.ask(target, Wait(number, seconds), timeout_s=timeout_s)
                self._check(answer.message.number == number, "wait")
            case 3:
                offset = draw % FILE_BYTES
                length = min(5000 if draw % 5 else FILE_BYTES, FILE_BYTES - offset)
                part = client.ask(target, ReadFile(number, offset, length), timeout_s=timeout_s)
                self._check(bytes(part.payload) == CONTENT[offset : offset + length], "part of a file")
            case 4:
                self._send_file(client, target, number, timeout_s)
            case 5:
                parts = [bytes([index]) * (size // PARTS) for index in range(PARTS)]
                found = client.ask(target, Echo(number), parts, timeout_s=timeout_s)
                self._check(bytes(found.payload) == b"".join(parts), "parts")
            case 6 if isinstance(target, str):
                self._open_file(client, target, number, timeout_s)
            case _:
                client.ask(target, Fail(number, draw % 5 == 0), timeout_s=timeout_s)

    def _send_file(self, client: Client, target: Target, number: int, timeout_s: float) -> None:
        part = FileSlice(disk.open(FILE, os.O_RDONLY), 7, FILE_BYTES // 2)
        found = client.ask(target, Echo(number), part, timeout_s=timeout_s)
        self._check(bytes(found.payload) == CONTENT[7 : 7 + FILE_BYTES // 2], "file that was sent")

    def _open_file(self, client: Client, target: Target, number: int, timeout_s: float) -> None:
        found = client.ask(target, OpenFile(number), timeout_s=timeout_s)
        assert found.descriptor is not None
        try:
            self._check(disk.pread(found.descriptor, 100, 50) == CONTENT[50:150], "open file")
        finally:
            network.close_descriptor(found.descriptor)

    def _check(self, holds: bool, what: str) -> None:
        self._cluster.require(holds, f"W2: {self.machine.name} got the wrong {what}")
