"""The users of a cluster: clients that submit, wait, cancel and vanish, and strangers that disturb.

Each client is a process on a separate machine with the real ``RainstormClient``. Every call is timed: one
that has no answer long after its deadline is a finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import Conflict, Fenced, RainStormError
from agent.common.shell import network, threads
from agent.rainstorm.client import LEADERLESS_S, TIMEOUT_S, RainstormClient
from agent.wire import auth
from agent.wire.codec.framing import PROTOCOL_VERSION
from agent.wire.connection import Connection
from agent.wire.messages import Hello
from tests.simulation.machine.process import Process
from tests.simulation.rainstorm.jobs import Workload
from tests.simulation.rainstorm.world import World

AGAIN_S = 0.3
SUBMISSIONS_MAX = 20
WAIT_S = 20.0
POLL_S = 1.0
# A call asks all nodes in turn, again and again, until there is a leader.
CALL_S_MAX = LEADERLESS_S + 2 * TIMEOUT_S
# Strangers stay until the end of the run.
STRANGER_S = 3600.0
# Once all faults have ended, a client must hear of the end of its job within this time.
NEWS_S_MAX = 10.0
# Requests from a program with a node's certificate that must be answered with an error.
MALFORMED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rainstorm.submit", {"job": [[[]]]}),
    ("rainstorm.submit", {"job": {"source": {"file": 1}, "stages": "x"}}),
    ("rainstorm.wait", {"job": 5, "wait_s": "x"}),
    ("rainstorm.wait", {"job": "j", "wait_s": float("nan")}),
    ("rainstorm.command", {"message": 3}),
    ("rainstorm.report", {"report": {"type": "ack", "tasks": {"0.0": []}}}),
    ("rainstorm.kill-local", {"task": {}, "pid": -1}),
    ("rainstorm.nothing", {}),
)
NONSENSE = (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x00\x00\x00\x02\x00\x00\x00\x00\xc1\xc1", b"")


class Operators:
    """All clients of one run."""

    def __init__(self, world: World, workloads: list[Workload]) -> None:
        self._world = world
        self._workloads = workloads
        self._count = 0
        self._current: Process | None = None
        self._submissions = 0
        # Workloads whose submission was answered, with the job's id.
        self.accepted: dict[str, str] = {}
        # Calls in progress: what, since when, and the longest time that they may take.
        self._calls: dict[int, tuple[str, float, float]] = {}
        # The problems that clients have found.
        self.complaints: list[str] = []
        # The instant since which no fault has been in force.
        self.calm_since = float("inf")
        self.start()

    def start(self) -> None:
        """Starts an operator that submits the jobs not yet accepted and waits for the results."""
        self._count += 1
        process = self._current = self._world.cluster.client(f"operator-{self._count}")
        for workload in self._workloads:
            process.start(f"submit-{workload.kind}", self._run, process, workload)
        process.start("look", self._look, process)

    def abort(self) -> None:
        """Kills the operator's process in the middle of a call; another one takes over."""
        if self._current is not None:
            if self._calls:
                self._world.watch.hit("client aborted in a call")
            self._calls.clear()
            self._world.scheduler.kill(self._current)
            self.start()

    def cancel(self, pick: float) -> None:
        """Has a job cancelled."""
        jobs = sorted(job.job for job in self._world.watch.jobs.values() if not job.outcome)
        if jobs:
            job = jobs[int(pick * len(jobs)) % len(jobs)]
            self._world.watch.cancelled[job] = True
            self._ask("cancel", lambda client: client.cancel(job), CALL_S_MAX + 60.0)

    def kill_task(self, name: str) -> None:
        """Has a task of a node killed as ``fab kill-task`` does."""
        self._ask("kill", lambda client: client.kill_task(node=name), CALL_S_MAX)

    def disturb(self, name: str, amount: float) -> None:
        """Lets a stranger connect to a node's agent and tasks, and lets a neighbour send invalid requests."""
        node = self._world.cluster.nodes[name]
        ports = [port for host, port in self._world.cluster.wires.listeners if host == node.address]
        process = self._stranger()
        for port in ports:
            if isinstance(port, int):
                words = NONSENSE[int(amount * len(NONSENSE)) % len(NONSENSE)]
                process.start("stranger", self._intrude, node.address, port, words)
        kind, fields = MALFORMED[int(amount * len(MALFORMED)) % len(MALFORMED)]
        names = self._world.names
        neighbour = names[(names.index(name) + 1) % len(names)]
        if self._world.cluster.nodes[neighbour].is_on:
            process = self._world.cluster.client(f"rogue-{self._count}", on=neighbour)
        process.start("malformed", self._ask_nonsense, name, kind, fields)

    @property
    def is_idle(self) -> bool:
        """Tells whether no call is in progress."""
        return not self._calls

    # -- threads of clients ---------------------------------------------------------------------------

    def _stranger(self) -> Process:
        self._count += 1
        return self._world.cluster.client(f"stranger-{self._count}")

    def _ask(self, what: str, call: Callable[[RainstormClient], Any], limit_s: float) -> None:
        process = self._stranger()

        def run() -> None:
            try:
                self._timed(what, lambda: call(self._world.operator(process)), limit_s)
            except RainStormError:
                return  # any answer will do

        process.start(what, run)

    def _run(self, process: Process, workload: Workload) -> None:
        name = str(workload.raw["name"])
        client = self._world.operator(process)
        while name not in self.accepted and self._submissions < SUBMISSIONS_MAX:
            self._submissions += 1
            try:
                self.accepted[name] = self._timed("submit", lambda: client.submit(workload.raw), CALL_S_MAX)
            except RainStormError as error:
                if not error.retryable and not isinstance(error, Conflict | Fenced):
                    self.complaints.append(f"submission refused: {error!r}")
                threads.sleep(AGAIN_S)
        while name in self.accepted:
            job, began = self.accepted[name], threads.monotonic()
            try:
                found = self._timed("wait", partial(client.wait, job, WAIT_S), WAIT_S + CALL_S_MAX)
            except RainStormError:
                threads.sleep(AGAIN_S)
                continue
            if found.has_ended:
                self._check_news(job, began)
                return

    def _check_news(self, job: str, asked_at: float) -> None:
        # A node that a client has asked before may have lost power, and will never answer.
        ended_at = max(self._world.watch.jobs[job].ended_at, asked_at)
        delay_s = threads.monotonic() - ended_at
        if asked_at > self.calm_since and delay_s > NEWS_S_MAX:
            self.complaints.append(f"the end of {job} was known to its client after {delay_s:.1f} s")

    def _look(self, process: Process) -> None:
        client = self._world.operator(process)
        while not self._world.watch.over() or not self._world.watch.jobs:
            with contextlib.suppress(RainStormError):
                self._timed("jobs", client.jobs, CALL_S_MAX)
            threads.sleep(POLL_S)

    def _timed(self, what: str, call: Callable[[], Any], limit_s: float) -> Any:
        self._count += 1
        number, began = self._count, threads.monotonic()
        self._calls[number] = (what, began, limit_s)
        try:
            return call()
        finally:
            if self._calls.pop(number, None) is not None and threads.monotonic() - began > limit_s:
                took_s = threads.monotonic() - began
                self.complaints.append(f"{what} took {took_s:.1f} s, at most {limit_s:g} s")

    def _ask_nonsense(self, name: str, kind: str, fields: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, RainStormError):  # the node may be down
            found = self._timed(kind, lambda: self._exchange(name, {**fields, "type": kind}), CALL_S_MAX)
            if found.get("error", {}).get("code", "INTERNAL") == "INTERNAL":
                self.complaints.append(f"{kind} with {fields} was answered with {found}")

    def _exchange(self, name: str, header: dict[str, Any]) -> dict[str, Any]:
        """Sends a request that no client would make, and returns the answer."""
        config = self._world.cluster.nodes[name].config
        deadline = Deadline(threads.monotonic(), TIMEOUT_S)
        plain = network.dial_tcp(config.me.address, config.me.rainstorm_port, TIMEOUT_S)
        plain.settimeout(TIMEOUT_S)
        with auth.client_context(config.tls).wrap_socket(plain, server_hostname=name) as sock:
            connection = Connection(sock, name)
            connection.send(message.encode(Hello(Hello.kind, PROTOCOL_VERSION)), b"", deadline)
            connection.receive(deadline)
            connection.send({**header, "timeout_s": TIMEOUT_S}, b"", deadline)
            return connection.receive(deadline).header

    @staticmethod
    def _intrude(host: str, port: int, words: bytes) -> None:
        try:
            sock = network.dial_tcp(host, port, 2.0)
        except OSError:
            return
        try:
            sock.settimeout(STRANGER_S)
            if words:
                sock.sendall(words)
            sock.recv(100)
        except OSError:
            pass
        finally:
            sock.close()
