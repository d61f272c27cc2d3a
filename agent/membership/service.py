"""The membership agent: sockets, threads and files around the membership core.

Threads: the core's (timers, sends), one that receives datagrams, one that carries out register operations,
and those of the request server. Requests read the core's tables by copies made in one step, so they never
wait for the core. Voters also answer for the view register, from their own durable log.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.common import clock, ids
from agent.common.config import NodeConfig
from agent.common.errors import DiskFailed, NotFound, Overloaded, RainStormError, UsageError
from agent.common.runner import CoreRunner
from agent.membership import events
from agent.membership import view as views
from agent.membership.core import MembershipCore
from agent.membership.messages import Datagram
from agent.membership.store import Identity, IdentityStore, read_key
from agent.membership.table import Member, State
from agent.membership.transport import Transport
from agent.wire import auth
from agent.wire.client import Address, Client, Target
from agent.wire.register_store import RegisterStore
from agent.wire.registers import Registers, handlers, voter_targets
from agent.wire.server import Handler, Reply, Request, Server

logger = logging.getLogger("agent.membership")

REGISTER = "view"
REGISTER_TIMEOUT_S = 3.0
WATCH_S_MAX = 60.0
# Requests of one peer are a sign of life; more often than this they say nothing new.
HEARD_INTERVAL_S = 0.2


class Service:
    """One node's membership agent."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self._config = config
        self._on_crash = on_crash
        self._key = read_key(config.gossip_key)
        self._server_context = auth.server_context(config.tls)
        self._client = Client(auth.client_context(config.tls))
        self._contacts = {
            peer.name: events.Contact(peer.address, peer.membership_port) for peer in config.peers
        }
        self._by_contact = {contact: name for name, contact in self._contacts.items()}
        self._identities = IdentityStore(Path(config.data_dir) / "membership" / "identity.json")
        self._transport = Transport(config.name, self._key, self._on_datagram, self._on_refused, on_crash)
        self._server = Server("membership", self._handlers())
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._view: views.View = views.empty()
        self._heard_at: dict[str, float] = {}
        self._jobs: queue.SimpleQueue[events.ReadView | events.ChangeView | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="membership-register", daemon=True)
        self._store: RegisterStore | None = None
        self._registers: Registers | None = None
        self._core: MembershipCore | None = None
        self._runner: CoreRunner | None = None

    def start(self) -> None:
        """Takes the addresses, begins a new life of this node and joins the cluster.

        Raises:
            PortInUse: an address is taken.
            Corrupt, DiskFailed: the node's own files cannot be used.
        """
        me = self._config.me
        self._transport.bind(me.address, me.membership_port)
        folder = Path(self._config.data_dir) / "membership"
        if self._config.name in self._config.voters:
            self._store = RegisterStore(folder / "registers.log")
        identity = self._identities.begin_life()
        self._transport.set_boot(identity.boot)
        targets = voter_targets(self._config.voters, self._target)
        self._registers = Registers(self._config.name, REGISTER, self._client, targets)
        member = Member(me.name, identity.uuid, identity.boot, 0, State.ALIVE, me.address, me.membership_port)
        self._core = MembershipCore(
            member, self._contacts, self._config.voters, self._config.membership, random.Random()
        )
        self._runner = CoreRunner("membership", self._core, self._execute, on_crash=self._on_crash)
        self._server.listen_tls(me.address, me.membership_port, self._server_context)
        self._server.listen_unix(self._config.socket_path("membership"))
        self._worker.start()
        self._runner.start()
        self._transport.start()
        self._runner.post(events.Started())
        logger.info("agent_started node=%s node_id=%s", me.name, member.node_id)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends all threads and frees the addresses; the others notice as they would a crash."""
        self._stopping.set()
        if self._runner is not None:
            self._runner.stop(timeout_s)
        self._transport.stop(timeout_s)
        self._jobs.put(None)
        with self._changed:
            self._changed.notify_all()
        self._server.stop(timeout_s)
        self._client.close()
        if self._worker.is_alive():
            self._worker.join(timeout_s)
        if self._registers is not None:
            self._registers.close()
        if self._store is not None:
            self._store.close()

    def status(self) -> str:
        """Returns one line for the operator."""
        core = self._core
        if core is None:
            return "starting"
        live = len(core.monitor.table.live())
        return f"{live} live, view {self._view['version']}, majority {'yes' if core.majority else 'no'}"

    # What comes in from other threads

    def _post(self, event: Any) -> None:
        assert self._runner is not None
        try:
            self._runner.post(event)
        except Overloaded as error:  # as good as a lost datagram
            logger.warning("event_dropped error=%s", error)

    def _on_datagram(self, sender: str, boot: int, datagram: Datagram) -> None:
        self._post(events.DatagramReceived(sender, boot, datagram))

    def _on_refused(self, address: str, port: int) -> None:
        name = self._by_contact.get(events.Contact(address, port))
        if name is not None:
            self._post(events.ContactRefused(name))

    def _note_peer(self, name: str) -> None:
        now = clock.monotonic()
        if name in self._contacts and now - self._heard_at.get(name, 0.0) > HEARD_INTERVAL_S:
            self._heard_at[name] = now
            self._post(events.PeerHeard(name))

    # Effects

    def _execute(self, effect: events.Effect) -> None:
        match effect:
            case events.SendDatagram(contact=contact, datagram=datagram):
                self._transport.send(contact, datagram)
            case events.ReadView() | events.ChangeView():
                self._jobs.put(effect)
            case events.AnnounceMember(member=member, before=before):
                logger.info(
                    "member_changed name=%s node_id=%s state=%s before=%s",
                    member.name,
                    member.node_id,
                    member.state.label,
                    before.state.label if before else "unknown",
                )
            case events.AnnounceView(view=view):
                logger.info(
                    "view_changed version=%d term=%d leader=%s up=%s",
                    view["version"],
                    view["term"],
                    view["leader"],
                    ",".join(views.up_names(view)),
                )
                with self._changed:
                    self._view = view
                    self._changed.notify_all()
            case events.AdoptBoot(boot=boot):
                assert self._core is not None
                logger.warning("boot_adopted boot=%d reason=a_later_life_of_this_name_is_known", boot)
                self._identities.write(Identity(self._core.monitor.me.uuid, boot))
                self._transport.set_boot(boot)

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                self._post(self._use_register(job))
        except BaseException as error:
            logger.exception("register_worker_crashed")
            self._on_crash(error)

    def _use_register(self, job: events.ReadView | events.ChangeView) -> events.Event:
        assert self._registers is not None
        try:
            if isinstance(job, events.ReadView):
                return events.ViewLearned(self._registers.read(REGISTER, timeout_s=REGISTER_TIMEOUT_S))
            members = job.members

            def change(current: Mapping[str, Any] | None) -> Any:
                changed = views.propose(current, members)
                return current if changed is None else changed

            return events.ViewLearned(self._registers.change(REGISTER, change, timeout_s=REGISTER_TIMEOUT_S))
        except RainStormError as error:
            logger.info("register_failed operation=%s error=%s", type(job).__name__, error)
            return events.RegisterFailed(error)

    # Requests

    def _handlers(self) -> dict[str, Handler]:
        own: dict[str, Handler] = {
            "membership.members": self._members,
            "membership.view": lambda request: Reply({"view": dict(self._view)}),
            "membership.watch": self._watch,
            "membership.hint": self._hint,
            "membership.leave": self._leave,
        }
        if self._config.name in self._config.voters:
            own.update({f"{REGISTER}.{kind}": self._vote for kind in ("prepare", "accept", "read", "keys")})
        return {kind: self._noting(handler) for kind, handler in own.items()}

    def _noting(self, handler: Handler) -> Handler:
        def handle(request: Request) -> Reply:
            self._note_peer(request.peer)
            return handler(request)

        return handle

    def _vote(self, request: Request) -> Reply:
        assert self._store is not None
        try:
            return handlers(self._store, REGISTER)[request.type](request)
        except DiskFailed as error:
            self._on_crash(error)
            raise

    def _members(self, request: Request) -> Reply:
        core = self._core
        assert core is not None
        now = clock.monotonic()
        heard_at = core.monitor.heard_at
        listed = [
            {
                "name": member.name,
                "node_id": member.node_id,
                "address": member.address,
                "state": member.state.label,
                "incarnation": member.incarnation,
                "last_heard_s": self._since(member, heard_at, now),
                "ring_id": ids.ring_id(member.name),
            }
            for member in sorted(core.members().values(), key=lambda member: member.name)
        ]
        return Reply(
            {
                "members": listed,
                "view": dict(self._view),
                "majority": core.majority,
                "self": self._config.name,
                "health": core.monitor.health.score,
                "datagrams": {
                    "sent_bytes": self._transport.sent_bytes,
                    "received_bytes": self._transport.received_bytes,
                    "dropped": self._transport.dropped,
                },
            }
        )

    def _since(self, member: Member, heard_at: Mapping[str, float], now: float) -> float | None:
        if member.name == self._config.name:
            return 0.0
        at = heard_at.get(member.name)
        return None if at is None else round(now - at, 3)

    def _watch(self, request: Request) -> Reply:
        version = int(request.fields.get("version", 0))
        wait_s = min(float(request.fields.get("wait_s", 0.0)), WATCH_S_MAX)
        with self._changed:
            self._changed.wait_for(
                lambda: self._view["version"] > version or self._stopping.is_set(), timeout=wait_s
            )
            return Reply({"view": dict(self._view)})

    def _hint(self, request: Request) -> Reply:
        name = str(request.fields.get("name", ""))
        if name not in self._contacts:
            raise NotFound(f"no node is called {name!r}", hint="list them with: fab list-mem-ids")
        self._post(events.HintReceived(name))
        return Reply()

    def _leave(self, request: Request) -> Reply:
        if request.peer not in ("local", "operator", self._config.name):
            raise UsageError(f"{request.peer} may not make {self._config.name} leave")
        self._post(events.LeaveRequested())
        return Reply()

    def _target(self, name: str) -> Target:
        peer = self._config.peer(name)
        return Address(peer.address, peer.membership_port, name)
