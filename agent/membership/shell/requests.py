"""The requests that a membership agent answers: its beliefs, the reasons for them, and the operators' orders.

No request runs in the core's thread: beliefs are read through copies made in one step; an order is handed to
the core as an event, and its effect is awaited. Only operators and this machine may give orders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, assert_never

from agent.common import ids
from agent.common.config import NodeConfig
from agent.common.deadline import Deadline
from agent.common.errors import (
    Forbidden,
    NotFound,
    Overloaded,
    RainStormError,
    Unavailable,
    UsageError,
)
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.common.shell.pool import Pool
from agent.membership.core import events
from agent.membership.core.dissemination.keyring import KeyRing, parse
from agent.membership.core.node import MembershipCore
from agent.membership.core.view import groups
from agent.membership.member import LIVE, SERVICES, Member
from agent.membership.messages.agents import Attach, Hint
from agent.membership.messages.events import EventsReply, GetEvents
from agent.membership.messages.members import (
    GetMembers,
    HistoryEntry,
    MemberReport,
    MembersReply,
    SettingsReport,
    Traffic,
    Why,
    WhyReply,
)
from agent.membership.messages.orders import (
    ChangeKeys,
    Drop,
    DropReply,
    Join,
    KeysReply,
    Leave,
    Switch,
    SwitchReply,
)
from agent.membership.messages.view import GetView, ReplaceVoter, ViewReply, WatchView
from agent.membership.settings import detector_named
from agent.membership.shell.eventlog import EventLog
from agent.membership.shell.transport import Transport
from agent.membership.view import View
from agent.wire.client import Client, Target
from agent.wire.endpoint import Call, Endpoint, by_kind, endpoint
from agent.wire.messages import Ping
from agent.wire.server import LOCAL

WATCH_S_MAX = 60.0
# How long an order may take to show its effect.
ORDER_TIMEOUT_S = 2.0
# In a quiet group of ten every pair exchanges datagrams about once a second.
UDP_FRESH_S = 5.0
TCP_TIMEOUT_S = 0.5
TCP_THREADS_MAX = 16
# A hundred nodes, probed for two operators at the same time; for further nodes "tcp" stays unknown.
TCP_WAITING_MAX = 200
# Sixteen threads probe all of those in this time.
TCP_WAIT_S = 8.0


class Agent(Protocol):
    """The parts of the agent that the requests use."""

    config: NodeConfig
    client: Client
    transport: Transport
    event_log: EventLog
    view: View
    ring: KeyRing
    changed: threads.Condition
    stopping: threads.Event

    @property
    def core(self) -> MembershipCore:
        """Returns the core, to read it."""

    def target(self, name: str) -> Target:
        """Returns where the membership agent of a node answers requests."""

    def submit(self, event: events.Event) -> None:
        """Hands an event to the core, or raises ``Overloaded``."""

    def note_peer(self, name: str, age_s: float = 0.0) -> None:
        """Notes that a peer made an authenticated request to an agent of this node."""

    def replace_voter(self, old: str, new: str) -> View:
        """Makes ``new`` a voter in place of ``old``; with two empty names it finishes a replacement."""

    def change_ring(self, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
        """Changes the ring of gossip keys, durably before it is used."""


class Requests:
    """Answers the requests to one membership agent."""

    def __init__(self, service: Agent) -> None:
        self._service = service
        self._pool = Pool("membership-tcp", TCP_THREADS_MAX, TCP_WAITING_MAX)

    def endpoints(self) -> dict[str, Endpoint]:
        """Returns the endpoint of each type of request."""
        orders = (
            endpoint(Leave, self._leave),
            endpoint(Join, self._join),
            endpoint(Switch, self._switch),
            endpoint(Drop, self._drop),
            endpoint(ReplaceVoter, self._replace_voter),
            endpoint(ChangeKeys, self._change_keys),
        )
        return by_kind(
            endpoint(GetMembers, self._members),
            endpoint(GetView, self._view),
            endpoint(WatchView, self._watch),
            endpoint(GetEvents, self._events),
            endpoint(Why, self._why),
            endpoint(Hint, self._hint),
            endpoint(Attach, self._attach),
            *map(self._from_operators, orders),
        )

    def stop(self, timeout_s: float) -> None:
        """Ends the threads that probe members by TCP."""
        self._pool.stop(drain=False, timeout_s=timeout_s)

    def _from_operators(self, order: Endpoint) -> Endpoint:
        """Returns an endpoint that takes the order only from an operator or from this machine."""

        def handle(request: Any, call: Call) -> Any:
            if call.peer not in (LOCAL, "operator", self._service.config.name):
                raise Forbidden(
                    f"{call.peer!r} may not order {order.request.kind} on {self._service.config.name}",
                    hint="use fab, which has the operator's certificate",
                )
            return order.handle(request, call)

        return Endpoint(order.request, handle)

    # Questions

    def _members(self, request: GetMembers, call: Call) -> MembersReply:
        service, core = self._service, self._service.core
        now, monitor = clock.monotonic(), core.monitor
        found = sorted(core.members().values(), key=lambda member: member.name)
        tcp = self._probe_tcp([member.name for member in found]) if request.probe else {}
        transport = service.transport
        return MembersReply(
            members=tuple([self._describe(member, now, tcp) for member in found]),
            view=service.view,
            majority=core.majority,
            voters=groups(service.view, service.config.voters),
            settings=SettingsReport.of(monitor.settings),
            observer=service.config.name,
            left=monitor.leaving,
            health=monitor.health.score,
            datagrams=Traffic(
                sent=transport.sent,
                sent_bytes=transport.sent_bytes,
                received_bytes=transport.received_bytes,
                dropped=transport.dropped,
                discarded=transport.discarded,
                drop_percent=transport.drop_percent,
            ),
        )

    def _describe(self, member: Member, now: float, tcp: Mapping[str, bool]) -> MemberReport:
        monitor, mine = self._service.core.monitor, member.name == self._service.config.name
        datagram_at = monitor.datagram_at.get(member.name)
        fresh = datagram_at is not None and now - datagram_at <= UDP_FRESH_S
        return MemberReport(
            name=member.name,
            node_id=member.node_id,
            address=member.address,
            port=member.port,
            state=member.state.label,
            incarnation=member.incarnation,
            services={
                name: "up" if member.state in LIVE and member.lives(name) else "down" for name in SERVICES
            },
            last_heard_s=0.0 if mine else self._age_s(member.name, now),
            udp=mine or (member.state in LIVE and fresh),
            tcp=True if mine else tcp.get(member.name),
            reporters=monitor.roster.reporters(member.name),
            ring_id=ids.ring_id(member.name),
        )

    def _age_s(self, name: str, now: float) -> float | None:
        """Returns how long ago a member was heard; 0 if it was heard after ``now`` was read."""
        heard_at = self._service.core.monitor.heard_at.get(name)
        return None if heard_at is None else round(max(0.0, now - heard_at), 3)

    def _probe_tcp(self, names: list[str]) -> dict[str, bool]:
        service = self._service
        others = [name for name in names if name != service.config.name]

        def answers(name: str) -> bool:
            try:
                service.client.ask(service.target(name), Ping(), timeout_s=TCP_TIMEOUT_S)
            except RainStormError:
                return False
            return True

        asked: dict[str, threads.Future[bool]] = {}
        for name in others:
            try:
                asked[name] = self._pool.call(answers, name)
            except Overloaded:
                break
        limit, found = Deadline(clock.monotonic(), TCP_WAIT_S), dict[str, bool]()
        for name, future in asked.items():
            with contextlib.suppress(TimeoutError, threads.CancelledError):
                found[name] = future.result(limit.remaining(clock.monotonic()))
        return found

    def _view(self, request: GetView, call: Call) -> ViewReply:
        return ViewReply(self._service.view)

    def _watch(self, request: WatchView, call: Call) -> ViewReply:
        service = self._service
        with service.changed:
            service.changed.wait_for(
                lambda: service.view.version > request.version or service.stopping.is_set(),
                timeout=min(request.wait_s, WATCH_S_MAX),
            )
            return ViewReply(service.view)

    def _events(self, request: GetEvents, call: Call) -> EventsReply:
        return self._service.event_log.since(request.since, min(request.wait_s, WATCH_S_MAX))

    def _why(self, request: Why, call: Call) -> WhyReply:
        name = self._known(request.name)
        monitor, now, wall = self._service.core.monitor, clock.monotonic(), clock.wall()
        member = monitor.table.get(name)
        return WhyReply(
            observer=self._service.config.name,
            name=name,
            state=member.state.label if member is not None else "unknown",
            last_heard_s=self._age_s(name, now),
            reporters=monitor.roster.reporters(name),
            history=tuple(
                [
                    HistoryEntry(wall - (now - entry.at), entry.what, entry.by, entry.boot, entry.incarnation)
                    for entry in monitor.roster.history.about(name)
                ]
            ),
        )

    # Reports from other agents

    def _hint(self, request: Hint, call: Call) -> Done:
        self._service.submit(events.HintReceived(self._known(request.name)))
        return Done()

    def _known(self, name: str) -> str:
        if all(peer.name != name for peer in self._service.config.peers):
            raise NotFound(f"no node is called {name!r}", hint="list them with: fab list-mem-ids")
        return name

    def _attach(self, request: Attach, call: Call) -> Done:
        if call.peer != LOCAL:
            raise Forbidden(f"{call.peer!r} is not on this machine", hint="attach over the Unix socket")
        if request.service not in SERVICES:
            raise UsageError(f"there is no service {request.service!r}", hint=f"known: {', '.join(SERVICES)}")
        self._service.submit(events.ServiceAttached(request.service, call.connection))
        for name, age_s in request.heard:
            self._service.note_peer(name, age_s)
        return Done()

    # Orders

    def _leave(self, request: Leave, call: Call) -> Done:
        self._service.submit(events.LeaveRequested())
        self._await(lambda: self._service.core.monitor.leaving, "leaving")
        return Done()

    def _join(self, request: Join, call: Call) -> Done:
        self._service.submit(events.JoinRequested())
        self._await(lambda: not self._service.core.monitor.leaving, "joining")
        return Done()

    def _switch(self, request: Switch, call: Call) -> SwitchReply:
        monitor = self._service.core.monitor
        before = monitor.settings
        detector = before.detector if request.detector is None else detector_named(request.detector)
        suspicion = before.suspicion if request.suspicion is None else request.suspicion
        self._service.submit(events.SwitchRequested(detector, suspicion))
        self._await(lambda: monitor.settings > before, "the switch")
        return SwitchReply(SettingsReport.of(monitor.settings))

    def _drop(self, request: Drop, call: Call) -> DropReply:
        transport, percent = self._service.transport, request.percent
        if percent is not None:
            if not 0 <= percent <= 100:
                raise UsageError(f"{percent:g} is not a share from 0 to 100 %", hint="fab drop --percent 5")
            transport.set_drop(percent, request.seed)
        return DropReply(transport.drop_percent, transport.discarded)

    def _replace_voter(self, request: ReplaceVoter, call: Call) -> ViewReply:
        if bool(request.old) != bool(request.new):
            raise UsageError(
                "a voter is replaced by another one: name both", hint="fab voters --replace vm2 --by vm6"
            )
        return ViewReply(self._service.replace_voter(request.old, request.new))

    def _change_keys(self, request: ChangeKeys, call: Call) -> KeysReply:
        service, mark = self._service, request.fingerprint
        match request.operation:
            case "list":
                ring = service.ring
            case "install":
                key = parse(request.key)
                ring = service.change_ring(lambda ring: ring.install(key))
            case "use":
                ring = service.change_ring(lambda ring: ring.use(mark))
            case "remove":
                ring = service.change_ring(lambda ring: ring.remove(mark))
            case never:
                assert_never(never)
        return KeysReply(tuple(ring.fingerprints()))

    def _await(self, predicate: Callable[[], bool], what: str) -> None:
        """Waits for the effect of an order by polling every 10 ms, because the core does not announce it."""
        deadline = Deadline(clock.monotonic(), ORDER_TIMEOUT_S)
        while not predicate():
            deadline.require(clock.monotonic(), what)
            if self._service.stopping.wait(0.01):
                raise Unavailable(f"{self._service.config.name} is being stopped: {what} did not happen")
