"""The rainstorm agent of a node: its tasks, and the dispatcher of all jobs when the view gives it the lead.

Any node answers any client: what only the leader knows is passed on to the leader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from agent.common.config import NodeConfig
from agent.common.errors import Forbidden, NotFound, NotLeader, RainStormError
from agent.common.shell import clock, threads
from agent.common.shell.runner import CoreRunner
from agent.hydfs.client import HydfsClient
from agent.membership.attachment import Attachment
from agent.membership.client import MembershipClient
from agent.rainstorm.host.shell.host import TaskHost
from agent.rainstorm.io.links import ReportLink, address_of
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.wire import auth
from agent.wire.client import Client, dial_from
from agent.wire.server import Handler, Reply, Request, Server

logger = logging.getLogger("agent.rainstorm.service")

WATCH_S = 10.0
WATCH_RETRY_S = 0.2


class Service:
    """One rainstorm agent."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self._config = config
        self._client = Client(auth.client_context(config.tls), dial=dial_from(config.me.address))
        self._stopping = threads.event()
        self._view: dict[str, Any] = {"version": 0, "term": 0, "leader": "", "nodes": {}}
        hydfs = HydfsClient(self._client, config.socket_path("hydfs"))
        storage = Storage(hydfs, self._stopping)
        self._membership = MembershipClient(self._client, config.socket_path("membership"))
        self._reports = ReportLink(config, self._client, lambda: str(self._view["leader"]))
        self._dispatcher = Dispatcher(config, self._client, storage, on_crash)
        self._host = TaskHost(config, storage, self._reports, on_crash)
        self._server = Server(f"rainstorm-{config.name}", self._handlers())
        self._attachment = Attachment(
            config.socket_path("membership"), "rainstorm", lambda: self._server.heard_at
        )
        self._watcher = threads.thread("view-watch", self._watch_view)

    def start(self) -> None:
        """Starts to serve.

        Raises:
            PortInUse: another process has the port.
        """
        me = self._config.me
        self._reports.start()
        self._dispatcher.start()
        self._host.start()
        self._server.listen_tls(me.address, me.rainstorm_port, auth.server_context(self._config.tls))
        self._server.listen_unix(self._config.socket_path("rainstorm"))
        self._watcher.start()
        self._attachment.start()

    def stop(self, timeout_s: float) -> None:
        """Ends all tasks and threads."""
        self._stopping.set()
        self._attachment.stop(timeout_s)
        self._server.stop(timeout_s)
        self._host.stop(timeout_s)
        self._dispatcher.stop(timeout_s)
        self._reports.stop(timeout_s)
        self._client.close()
        self._watcher.join(timeout_s)

    def status(self) -> str:
        """Returns one sentence about what the agent does."""
        return f"{len(self._host.supervisor.running())} tasks, leader {self._view['leader'] or 'unknown'}"

    def loops(self) -> list[CoreRunner]:
        """Returns the loops that must turn while the service lives."""
        return [self._dispatcher.loop, self._host.loop]

    def _watch_view(self) -> None:
        while not self._stopping.is_set():
            try:
                found = self._membership.watch(self._view["version"], WATCH_S)
                view = found.among([peer.name for peer in self._config.peers]).as_fields()
            except RainStormError as error:
                logger.info("membership_unreachable error=%s", error)
                self._stopping.wait(WATCH_RETRY_S)
                continue
            if view["version"] > self._view["version"]:
                self._view = view
                self._dispatcher.see_view(view)

    def _handlers(self) -> dict[str, Handler]:
        return {
            "rainstorm.command": self._command,
            "rainstorm.report": self._report,
            "rainstorm.kill-local": self._kill_local,
            "rainstorm.submit": self._led(lambda r: {"job": self._dispatcher.submit(r.fields["job"])}),
            "rainstorm.jobs": self._led(lambda r: {"jobs": self._dispatcher.jobs()}),
            "rainstorm.job": self._led(lambda r: {"status": self._dispatcher.job(str(r.fields["job"]))}),
            "rainstorm.wait": self._led(self._wait),
            "rainstorm.cancel": self._led(
                lambda r: {"status": self._dispatcher.cancel(str(r.fields["job"]))}
            ),
            "rainstorm.kill": self._led(self._kill),
        }

    def _led(self, answer: Callable[[Request], dict[str, Any]]) -> Handler:
        """Returns a handler that answers at the leader and passes the request on anywhere else."""

        def handle(request: Request) -> Reply:
            leader = str(self._view["leader"])
            if leader == self._config.name or request.fields.get("forwarded"):
                return Reply(answer(request))
            if not leader:
                raise NotLeader("the cluster has no leader at the moment", hint="try again in a second")
            fields = {**request.fields, "forwarded": True}
            left = request.deadline.require(clock.monotonic(), request.type)
            found = self._client.call(address_of(self._config, leader), request.type, fields, timeout_s=left)
            return Reply({key: value for key, value in found.fields.items() if key != "ok"})

        return handle

    def _require_node(self, request: Request) -> None:
        """Refuses what only nodes may say; operators have certificates of the same authority."""
        if all(request.peer != peer.name for peer in self._config.peers):
            raise Forbidden(f"{request.peer!r} is no node of the cluster", hint="use fab")

    def _command(self, request: Request) -> Reply:
        self._require_node(request)
        self._host.command(request.fields["message"])
        return Reply()

    def _report(self, request: Request) -> Reply:
        self._require_node(request)
        self._dispatcher.report(request.peer, request.fields["report"])
        return Reply()

    def _wait(self, request: Request) -> dict[str, Any]:
        left = request.deadline.remaining(clock.monotonic())
        wait_s = min(float(request.fields["wait_s"]), max(0.0, left - 1.0))
        return {"status": self._dispatcher.wait(str(request.fields["job"]), wait_s)}

    def _kill(self, request: Request) -> dict[str, Any]:
        """Kills the first task that fits the node, task and pid given."""
        node, task, pid = (request.fields.get(key) for key in ("node", "task", "pid"))
        for job in self._dispatcher.jobs():
            for found in job["tasks"]:
                fits = (node or found["node"], task or found["task"], pid or found["pid"])
                if found["pid"] and fits == (found["node"], found["task"], found["pid"]):
                    wanted = {"job": job["job"], "task": found["task"], "pid": found["pid"]}
                    answer = self._client.call(
                        address_of(self._config, found["node"]), "rainstorm.kill-local", wanted
                    )
                    return {"killed": {**answer.fields["killed"], "node": found["node"]}}
        asked = ", ".join(
            f"{key} {request.fields[key]}" for key in ("node", "task", "pid") if request.fields.get(key)
        )
        raise NotFound(f"no running task fits {asked or 'that'}", hint="see what runs where: fab list-tasks")

    def _kill_local(self, request: Request) -> Reply:
        self._require_node(request)
        # A process id alone is never trusted: only processes that this agent runs for a task can be killed.
        (job, task), process = self._host.supervisor.find(request.fields["task"], request.fields["pid"])
        process.kill()
        return Reply({"killed": {"job": job, "task": task, "pid": process.pid}})
