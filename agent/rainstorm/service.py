"""The rainstorm agent of a node: its tasks, and the dispatcher of all jobs while the view names it leader.

Any node answers any client: requests that only the leader can answer are passed on to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from agent.common.config import NodeConfig
from agent.common.errors import Forbidden, NotFound, NotLeader
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.common.shell.runner import CoreRunner
from agent.hydfs.client import HydfsClient
from agent.membership.attachment import Attachment
from agent.membership.follower import ViewFollower
from agent.membership.view import View
from agent.rainstorm.host.shell.host import TaskHost
from agent.rainstorm.io.links import ReportLink, address_of
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core.leader import NodeLife, ViewChanged
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.rainstorm.messages import client as messages
from agent.rainstorm.messages.commands import CommandRequest
from agent.rainstorm.messages.reports import ReportRequest
from agent.wire import auth
from agent.wire.client import Client, dial_from
from agent.wire.endpoint import Call, Endpoint, by_kind, endpoint
from agent.wire.server import Server

# A waiting request is answered this long before its caller stops waiting.
ANSWER_MARGIN_S = 1.0

Led = TypeVar(
    "Led", messages.Submit, messages.Jobs, messages.Job, messages.Wait, messages.Cancel, messages.Kill
)


class Service:
    """One rainstorm agent."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self._config = config
        self._client = Client(auth.client_context(config.tls), dial=dial_from(config.me.address))
        self._stopping = threads.event()
        hydfs = HydfsClient(self._client, config.socket_path("hydfs"))
        storage = Storage(hydfs, self._stopping)
        names = [peer.name for peer in config.peers]
        self._follower = ViewFollower("rainstorm", config.socket_path("membership"), names)
        self._reports = ReportLink(config, self._client, lambda: self._follower.current().leader)
        self._dispatcher = Dispatcher(config, self._client, storage, on_crash)
        self._host = TaskHost(config, storage, self._reports, on_crash)
        self._server = Server(f"rainstorm-{config.name}", self._endpoints())
        self._attachment = Attachment(
            config.socket_path("membership"), "rainstorm", lambda: self._server.heard_at
        )
        self._follower.subscribe(lambda view: self._dispatcher.set_view(view_changed(view)))

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
        self._follower.start()
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
        self._follower.stop(timeout_s)

    def status(self) -> str:
        """Returns one line for the operator."""
        leader = self._follower.current().leader or "unknown"
        return f"{len(self._host.supervisor.running())} tasks, leader {leader}"

    def loops(self) -> list[CoreRunner]:
        """Returns the loops that must make progress while the service lives."""
        return [self._dispatcher.loop, self._host.loop]

    def _endpoints(self) -> dict[str, Endpoint]:
        return by_kind(
            endpoint(CommandRequest, self._command),
            endpoint(ReportRequest, self._report),
            endpoint(messages.KillLocal, self._kill_local),
            endpoint(messages.Submit, self._led(self._submit)),
            endpoint(messages.Jobs, self._led(self._jobs)),
            endpoint(messages.Job, self._led(self._job)),
            endpoint(messages.Wait, self._led(self._wait)),
            endpoint(messages.Cancel, self._led(self._cancel)),
            endpoint(messages.Kill, self._led(self._kill)),
        )

    def _led(self, answer: Callable[[Led, Call], Any]) -> Callable[[Led, Call], Any]:
        """Returns a handler that answers on the leader, and passes the request on to the leader elsewhere."""

        def handle(request: Led, call: Call) -> Any:
            leader = self._follower.current().leader
            if leader == self._config.name or request.forwarded:
                return answer(request, call)
            if not leader:
                raise NotLeader("the cluster has no leader at the moment", hint="try again in a second")
            left = call.deadline.require(clock.monotonic(), request.kind)
            target = address_of(self._config, leader)
            return self._client.ask(target, replace(request, forwarded=True), timeout_s=left).message

        return handle

    def _require_node(self, call: Call) -> None:
        """Refuses a request that only nodes may make: operators have certificates of the same authority."""
        if all(call.peer != peer.name for peer in self._config.peers):
            raise Forbidden(f"{call.peer!r} is not a node of the cluster", hint="use fab")

    def _command(self, request: CommandRequest, call: Call) -> Done:
        self._require_node(call)
        self._host.command(request.command())
        return Done()

    def _report(self, request: ReportRequest, call: Call) -> Done:
        self._require_node(call)
        self._dispatcher.report(call.peer, request.message())
        return Done()

    def _submit(self, request: messages.Submit, call: Call) -> messages.Submitted:
        return messages.Submitted(self._dispatcher.submit(request.job))

    def _jobs(self, request: messages.Jobs, call: Call) -> messages.JobList:
        return messages.JobList(tuple(self._dispatcher.jobs()))

    def _job(self, request: messages.Job, call: Call) -> messages.OneJob:
        return messages.OneJob(self._dispatcher.job(request.job))

    def _wait(self, request: messages.Wait, call: Call) -> messages.OneJob:
        left_s = max(0.0, call.deadline.remaining(clock.monotonic()) - ANSWER_MARGIN_S)
        return messages.OneJob(self._dispatcher.wait(request.job, min(request.wait_s, left_s)))

    def _cancel(self, request: messages.Cancel, call: Call) -> messages.OneJob:
        return messages.OneJob(self._dispatcher.cancel(request.job))

    def _kill(self, request: messages.Kill, call: Call) -> messages.Killed:
        """Kills the first task that fits the node, task and pid given."""
        for found in (task for job in self._dispatcher.jobs() for task in job.tasks):
            wanted = (request.node or found.node, request.task or found.task, request.pid or found.pid)
            if found.pid and wanted == (found.node, found.task, found.pid):
                target = address_of(self._config, found.node)
                left = call.deadline.require(clock.monotonic(), request.kind)
                order = messages.KillLocal(found.task, found.pid)
                answer = self._client.ask(target, order, timeout_s=left).message
                return messages.Killed(replace(answer.killed, node=found.node))
        given = {"node": request.node, "task": request.task, "pid": request.pid}
        asked = ", ".join(f"{key} {value}" for key, value in given.items() if value)
        raise NotFound(f"no running task fits {asked or 'that'}", hint="see what runs where: fab list-tasks")

    def _kill_local(self, request: messages.KillLocal, call: Call) -> messages.Killed:
        self._require_node(call)
        # A process id alone is never trusted: only processes that run a task for this agent can be killed.
        (job, task), process = self._host.supervisor.find(request.task, request.pid)
        process.kill()
        return messages.Killed(messages.KilledTask(job, task, process.pid))


def view_changed(view: View) -> ViewChanged:
    """Returns a view as the leader's rules see it."""
    nodes = {name: NodeLife(entry.node_id, view.is_up(name)) for name, entry in view.nodes.items()}
    return ViewChanged(view.version, view.term, view.leader, nodes)
