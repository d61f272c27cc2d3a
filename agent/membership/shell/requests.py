"""The requests that a membership agent answers: what it believes, why, and the switches for operators.

Nothing here waits for the core: beliefs are read by copies made in one step, orders are posted as events and
waited for by their effect. Orders are taken from operators and from this machine only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
from agent.common.shell import clock, threads
from agent.common.shell.worker import Pool
from agent.membership.core import events
from agent.membership.core.dissemination.keyring import KeyRing, parse
from agent.membership.core.node import MembershipCore
from agent.membership.core.view import groups
from agent.membership.member import LIVE, SERVICES, Member
from agent.membership.settings import detector_named
from agent.membership.shell.eventlog import EventLog
from agent.membership.shell.transport import Transport
from agent.membership.view import View
from agent.wire.client import Client, Target
from agent.wire.server import LOCAL, Handler, Reply, Request

WATCH_S_MAX = 60.0
# How long an order may take to show its effect.
ORDER_TIMEOUT_S = 2.0
# In a quiet group of ten every pair exchanges datagrams about once a second.
UDP_FRESH_S = 5.0
TCP_TIMEOUT_S = 0.5
TCP_THREADS_MAX = 16
# A hundred nodes, asked about by two operators at once; of further ones "tcp" is not known.
TCP_WAITING_MAX = 200
# With sixteen threads all of those are through in time.
TCP_WAIT_S = 8.0


class Agent(Protocol):
    """What the requests need of the agent that they are made to."""

    config: NodeConfig
    client: Client
    transport: Transport
    events: EventLog
    view: View
    ring: KeyRing
    changed: threads.Condition
    stopping: threads.Event

    @property
    def core(self) -> MembershipCore:
        """Returns the core, to look at."""

    def target(self, name: str) -> Target:
        """Returns where the membership agent of a node answers requests."""

    def post(self, event: Any) -> None:
        """Hands an event to the core."""

    def note_peer(self, name: str, age_s: float = 0.0) -> None:
        """Takes note that a peer made an authenticated request to an agent of this node."""

    def replace_voter(self, old: str, new: str) -> View:
        """Makes ``new`` a voter in place of ``old``, or with two empty names finishes what was begun."""

    def change_ring(self, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
        """Changes the ring of gossip keys, durably before it is used."""


class Requests:
    """The request handlers of one membership agent."""

    def __init__(self, service: Agent) -> None:
        self._service = service
        self._pool = Pool("membership-tcp", TCP_THREADS_MAX, TCP_WAITING_MAX)

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers by request type."""
        return {
            "membership.members": self._members,
            "membership.view": lambda request: Reply({"view": self._service.view.as_fields()}),
            "membership.watch": self._watch,
            "membership.events": self._events,
            "membership.why": self._why,
            "membership.hint": self._hint,
            "membership.attach": self._attach,
            "membership.leave": self._ordered(self._leave),
            "membership.join": self._ordered(self._join),
            "membership.switch": self._ordered(self._switch),
            "membership.drop": self._ordered(self._drop),
            "membership.voters": self._ordered(self._voters),
            "membership.keys": self._ordered(self._keys),
        }

    def _ordered(self, handler: Handler) -> Handler:
        def handle(request: Request) -> Reply:
            if request.peer not in (LOCAL, "operator", self._service.config.name):
                raise Forbidden(
                    f"{request.peer!r} may not order {request.type} on {self._service.config.name}",
                    hint="use fab, which has the operator's certificate",
                )
            return handler(request)

        return handle

    def stop(self, timeout_s: float) -> None:
        """Ends the threads that try to reach members."""
        self._pool.stop(drain=False, timeout_s=timeout_s)

    # Questions

    def _members(self, request: Request) -> Reply:
        service, core = self._service, self._service.core
        now, monitor = clock.monotonic(), core.monitor
        found = sorted(core.members().values(), key=lambda member: member.name)
        tcp = self._probe_tcp([member.name for member in found]) if request.fields.get("probe") else {}
        transport = service.transport
        return Reply(
            {
                "members": [self._describe(member, now, tcp) for member in found],
                "view": service.view.as_fields(),
                "majority": core.majority,
                "voters": [list(group) for group in groups(service.view, service.config.voters)],
                "self": service.config.name,
                "left": monitor.leaving,
                "health": monitor.health.score,
                "settings": monitor.settings.plain(),
                "datagrams": {
                    "sent": transport.sent,
                    "sent_bytes": transport.sent_bytes,
                    "received_bytes": transport.received_bytes,
                    "dropped": transport.dropped,
                    "discarded": transport.discarded,
                    "drop_percent": transport.drop_percent,
                },
            }
        )

    def _describe(self, member: Member, now: float, tcp: Mapping[str, bool]) -> dict[str, Any]:
        monitor, mine = self._service.core.monitor, member.name == self._service.config.name
        heard_at = monitor.heard_at.get(member.name)
        datagram_at = monitor.datagram_at.get(member.name)
        reporters = monitor.roster.reporters(member.name)
        return {
            "name": member.name,
            "node_id": member.node_id,
            "address": member.address,
            "port": member.port,
            "state": member.state.label,
            "incarnation": member.incarnation,
            "services": {name: self._state_of(member, name) for name in SERVICES},
            "last_heard_s": 0.0 if mine else None if heard_at is None else round(now - heard_at, 3),
            "udp": mine
            or (member.state in LIVE and datagram_at is not None and now - datagram_at <= UDP_FRESH_S),
            "tcp": True if mine else tcp.get(member.name),
            "reporters": list(reporters),
            "ring_id": ids.ring_id(member.name),
        }

    def _state_of(self, member: Member, service: str) -> str:
        lives = member.state in LIVE and member.lives(service)
        return "up" if lives else "down"

    def _probe_tcp(self, names: list[str]) -> dict[str, bool]:
        service = self._service
        others = [name for name in names if name != service.config.name]

        def answers(name: str) -> bool:
            try:
                service.client.call(service.target(name), "ping", timeout_s=TCP_TIMEOUT_S)
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

    def _watch(self, request: Request) -> Reply:
        service = self._service
        version = int(request.fields.get("version", 0))
        wait_s = min(float(request.fields.get("wait_s", 0.0)), WATCH_S_MAX)
        with service.changed:
            service.changed.wait_for(
                lambda: service.view.version > version or service.stopping.is_set(), timeout=wait_s
            )
            return Reply({"view": service.view.as_fields()})

    def _events(self, request: Request) -> Reply:
        wait_s = min(float(request.fields.get("wait_s", 0.0)), WATCH_S_MAX)
        return Reply(self._service.events.since(int(request.fields.get("since", 0)), wait_s))

    def _why(self, request: Request) -> Reply:
        name = self._known(request)
        monitor, now, wall = self._service.core.monitor, clock.monotonic(), clock.wall()
        member, heard_at = monitor.table.get(name), monitor.heard_at.get(name)
        return Reply(
            {
                "observer": self._service.config.name,
                "name": name,
                "state": member.state.label if member is not None else "unknown",
                "last_heard_s": None if heard_at is None else round(now - heard_at, 3),
                "reporters": list(monitor.roster.reporters(name)),
                "story": [
                    {
                        "wall_at": wall - (now - entry.at),
                        "what": entry.what,
                        "by": entry.by,
                        "boot": entry.boot,
                        "incarnation": entry.incarnation,
                    }
                    for entry in monitor.roster.story.about(name)
                ],
            }
        )

    # What other agents say

    def _hint(self, request: Request) -> Reply:
        self._service.post(events.HintReceived(self._known(request)))
        return Reply()

    def _known(self, request: Request) -> str:
        name = str(request.fields.get("name", ""))
        if all(peer.name != name for peer in self._service.config.peers):
            raise NotFound(f"no node is called {name!r}", hint="list them with: fab list-mem-ids")
        return name

    def _attach(self, request: Request) -> Reply:
        service = str(request.fields.get("service", ""))
        if request.peer != LOCAL:
            raise Forbidden(f"{request.peer!r} is not on this machine", hint="attach over the Unix socket")
        if service not in SERVICES:
            raise UsageError(f"{service!r} is no service", hint=f"known: {', '.join(SERVICES)}")
        self._service.post(events.ServiceAttached(service, request.connection))
        for name, age_s in request.fields.get("heard", ()):
            self._service.note_peer(str(name), max(0.0, float(age_s)))
        return Reply()

    # Orders

    def _leave(self, request: Request) -> Reply:
        self._service.post(events.LeaveRequested())
        self._await(lambda: self._service.core.monitor.leaving, "leaving")
        return Reply()

    def _join(self, request: Request) -> Reply:
        self._service.post(events.JoinRequested())
        self._await(lambda: not self._service.core.monitor.leaving, "joining")
        return Reply()

    def _switch(self, request: Request) -> Reply:
        monitor = self._service.core.monitor
        before = monitor.settings
        detector = request.fields.get("detector")
        chosen = detector_named(str(detector)) if detector is not None else before.detector
        suspicion = request.fields.get("suspicion", before.suspicion)
        if not isinstance(suspicion, bool):
            raise UsageError(f"suspicion is on or off, not {suspicion!r}", hint="fab switch --suspicion on")
        self._service.post(events.SwitchRequested(chosen, suspicion))
        self._await(lambda: monitor.settings > before, "the switch")
        return Reply({"settings": monitor.settings.plain()})

    def _drop(self, request: Request) -> Reply:
        transport, percent = self._service.transport, request.fields.get("percent")
        if percent is not None:
            if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
                raise UsageError(f"{percent!r} is no share from 0 to 100 %", hint="fab drop --percent 5")
            seed = request.fields.get("seed")
            transport.set_drop(float(percent), None if seed is None else int(seed))
        return Reply({"percent": transport.drop_percent, "discarded": transport.discarded})

    def _voters(self, request: Request) -> Reply:
        old, new = str(request.fields.get("old", "")), str(request.fields.get("new", ""))
        if bool(old) != bool(new):
            raise UsageError("a voter is replaced by another one", hint="fab voters --replace vm2 --by vm6")
        return Reply({"view": self._service.replace_voter(old, new).as_fields()})

    def _keys(self, request: Request) -> Reply:
        service, fields = self._service, request.fields
        match fields.get("operation"):
            case "list":
                ring = service.ring
            case "install":
                key = parse(str(fields.get("key", "")))
                ring = service.change_ring(lambda ring: ring.install(key))
            case "use":
                ring = service.change_ring(lambda ring: ring.use(str(fields.get("fingerprint", ""))))
            case "remove":
                ring = service.change_ring(lambda ring: ring.remove(str(fields.get("fingerprint", ""))))
            case other:
                raise UsageError(f"{other!r} is nothing that can be done with keys")
        return Reply({"fingerprints": ring.fingerprints()})

    def _await(self, predicate: Callable[[], bool], what: str) -> None:
        """Waits for the effect of an order; the core wakes nobody for it, so it is looked at every 10 ms."""
        deadline = Deadline(clock.monotonic(), ORDER_TIMEOUT_S)
        while not predicate():
            deadline.require(clock.monotonic(), what)
            if self._service.stopping.wait(0.01):
                raise Unavailable(f"{self._service.config.name} is being stopped: {what} is not done")
