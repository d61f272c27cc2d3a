"""The membership agent: sockets, threads and files around the membership core.

Threads: one for the core (timers, sends), one that receives datagrams, one for register operations, one that
compares tables (``exchange``), those that probe members by TCP (``requests``), and those of the request
server. Voters also vote on the view register, from their own durable log.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from agent.common.config import NodeConfig
from agent.common.errors import DiskFull, Overloaded, RainStormError
from agent.common.shell import clock, threads
from agent.common.shell.runner import CoreRunner
from agent.common.shell.worker import Worker
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.beliefs.history import change_kind
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.node import MembershipCore
from agent.membership.datagrams import Datagram
from agent.membership.member import Member, State
from agent.membership.messages.events import IdentityConflict, MemberChanged, SettingsChanged, ViewChanged
from agent.membership.settings import Settings
from agent.membership.shell.eventlog import EventLog
from agent.membership.shell.exchange import AntiEntropy
from agent.membership.shell.requests import Requests
from agent.membership.shell.store import Identity, IdentityStore, KeyStore, VoterStore
from agent.membership.shell.transport import Transport
from agent.membership.shell.viewregister import ViewRegister
from agent.membership.view import EMPTY, REGISTER, View, check
from agent.wire import auth
from agent.wire.client import Address, Client, Target, dial_from
from agent.wire.register.proposer import voter_targets
from agent.wire.register.voter import Voter
from agent.wire.server import LOCAL, Server

logger = logging.getLogger("agent.membership")

# The core needs a step or two to take a view that was just chosen.
LEARNED_TIMEOUT_S = 1.0
# The core has one register operation under way at a time and waits for its outcome.
JOBS_MAX = 1
# A core with a full inbox either empties it soon or has stalled for longer than any wait here.
OUTCOME_RETRY_S = 0.05
# Requests of a peer are a sign of life; more of them than this add nothing.
HEARD_INTERVAL_S = 0.2
# malloc.h
M_ARENA_MAX = -8


class Service:
    """One node's membership agent."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self.config = config
        self.view = EMPTY
        self.changed = threads.condition()
        self.stopping = threads.event()
        self.event_log = EventLog()
        context, dial = auth.client_context(config.tls), dial_from(config.me.address)
        self.client = Client(context, dial=dial)
        self._on_crash = on_crash
        folder = Path(config.data_dir) / "membership"
        self._keys = KeyStore(folder / "gossip.keys", Path(config.gossip_key))
        self.ring = self._keys.load()
        self._ring_lock = threads.lock()
        self._server_context = auth.server_context(config.tls)
        self._contacts = {
            peer.name: events.Contact(peer.address, peer.membership_port) for peer in config.peers
        }
        self._by_contact = {contact: name for name, contact in self._contacts.items()}
        self._voters = VoterStore(folder / "voters.json")
        self._identities = IdentityStore(folder / "identity.json")
        self.transport = Transport(
            config.name,
            self.ring,
            {peer.name: peer.address for peer in config.peers},
            self._on_datagram,
            self._on_refused,
            self._on_impostor,
            self._on_earlier_boot,
            on_crash,
        )
        self._anti_entropy = AntiEntropy(
            lambda: Client(context, dial=dial),
            self.target,
            lambda: self.core.monitor.roster,
            self.post,
            on_crash,
        )
        self._requests = Requests(self)
        self._server = Server(
            "membership",
            self._requests.endpoints() | self._anti_entropy.endpoints(),
            on_disconnect=self._on_disconnect,
            on_request=self.note_peer,
        )
        self._heard_at: dict[str, float] = {}
        self._worker: Worker[events.ReadView | events.ChangeView] = Worker(
            "membership-register", self._work, JOBS_MAX, on_error=self._fail
        )
        self._voter: Voter | None = None
        self._register: ViewRegister | None = None
        self._core: MembershipCore | None = None
        self._runner: CoreRunner | None = None

    @property
    def core(self) -> MembershipCore:
        """Returns the core; other threads only read it, through copies made in one step."""
        assert self._core is not None
        return self._core

    @property
    def register(self) -> ViewRegister:
        """Returns the register of the view."""
        assert self._register is not None
        return self._register

    def start(self) -> None:
        """Binds the addresses, raises the boot counter and joins the cluster.

        Raises:
            PortInUse: an address is taken.
            Corrupt, DiskFailed: the node's own files cannot be used.
        """
        _share_one_heap()
        me = self.config.me
        self.transport.bind(me.address, me.membership_port)
        folder = Path(self.config.data_dir) / "membership"
        identity = self._identities.begin_life()
        self.transport.set_boot(identity.boot)
        targets = voter_targets(self._voters.load(self._contacts) or self.config.voters, self.target)
        self._register = ViewRegister(me.name, self.client, targets, self.config.voters, self.target)
        # Every node can be made a voter while the cluster runs.
        self._voter = Voter(
            me.name,
            REGISTER,
            folder,
            self.client,
            voter_targets(self.config.voters, self.target),
            self._register.registers,
            self._own_votes,
            self._on_crash,
            check=check,
        )
        member = Member(me.name, identity.uuid, identity.boot, 0, State.ALIVE, me.address, me.membership_port)
        self._core = MembershipCore(
            member, self._contacts, self.config.voters, self.config.membership, threads.random_source()
        )
        self._runner = CoreRunner("membership", self._core, self._execute, on_crash=self._on_crash)
        self._server.add(self._voter.endpoints())
        self._server.listen_tls(me.address, me.membership_port, self._server_context)
        self._server.listen_unix(self.config.socket_path("membership"))
        self._voter.start()
        self._worker.start()
        self._anti_entropy.start()
        self._runner.start()
        self.transport.start()
        self._runner.post(events.Started())
        logger.info("agent_started node=%s node_id=%s", me.name, member.node_id)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends all threads and frees the addresses; to the other nodes it looks like a crash."""
        self.stopping.set()
        if self._runner is not None:
            self._runner.stop(timeout_s)
        self.transport.stop(timeout_s)
        self._anti_entropy.stop(timeout_s)
        self.event_log.close()
        with self.changed:
            self.changed.notify_all()
        self._server.stop(timeout_s)
        self.client.close()
        self._worker.stop(drain=False, timeout_s=timeout_s)
        self._requests.stop(timeout_s)
        if self._register is not None:
            self._register.close()  # asks this node's voter
        if self._voter is not None:
            self._voter.stop(timeout_s)

    def status(self) -> str:
        """Returns one line for the operator."""
        core = self._core
        if core is None:
            return "starting"
        live = core.monitor.table.live_count
        return f"{live} live, view {self.view.version}, majority {'yes' if core.majority else 'no'}"

    def loops(self) -> list[CoreRunner]:
        """Returns the loops that must make progress while the service runs."""
        return [self._runner] if self._runner is not None else []

    def target(self, name: str) -> Target:
        """Returns where the membership agent of a node answers requests."""
        peer = self.config.peer(name)
        return Address(peer.address, peer.membership_port, name)

    def change_ring(self, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
        """Changes the ring of gossip keys, durably before it is used.

        Raises:
            RainStormError: what ``change`` refuses with.
        """
        with self._ring_lock:
            ring = change(self.ring)
            if ring != self.ring:
                self._keys.save(ring)
                self.ring = ring
                self.transport.set_ring(ring)
                logger.info("keys_changed ring=%s", ",".join(ring.fingerprints()))
            return ring

    def submit(self, event: events.Event) -> None:
        """Hands an event to the core.

        Raises:
            Overloaded: the core is too far behind to take it.
        """
        assert self._runner is not None
        self._runner.post(event)

    def post(self, event: events.Event) -> bool:
        """Hands an event to the core; if there is no room, the event is dropped, like a lost datagram."""
        try:
            self.submit(event)
        except Overloaded as error:
            logger.warning("event_dropped error=%s", error)
            return False
        return True

    def replace_voter(self, old: str, new: str) -> View:
        """Calls ``ViewRegister.replace_voter``, and returns once this node knows the new view."""
        view = self.register.replace_voter(old, new)
        logger.info("voters_changed old=%s new=%s voters=%s", old, new, ",".join(view.voters))
        self.post(events.ViewLearned(view))
        with self.changed:  # the next request to this node must see it
            self.changed.wait_for(lambda: self.view.version >= view.version, LEARNED_TIMEOUT_S)
        return view

    # Called by other threads

    def _on_datagram(self, sender: str, boot: int, datagram: Datagram) -> None:
        self.post(events.DatagramReceived(sender, boot, datagram))

    def _on_refused(self, address: str, port: int) -> None:
        name = self._by_contact.get(events.Contact(address, port))
        if name is not None:
            self.post(events.ContactRefused(name))

    def _on_impostor(self, name: str, address: str, port: int) -> None:
        self.post(events.ImpostorDetected(name, events.Contact(address, port)))

    def _on_earlier_boot(self, name: str, boot: int) -> None:
        self.post(events.EarlierBootDetected(name, boot))

    def _on_disconnect(self, peer: str, connection: int) -> None:
        if peer == LOCAL and self._runner is not None:
            self.post(events.ServiceDetached(connection))

    def note_peer(self, name: str, age_s: float = 0.0) -> None:
        """Notes that a peer made an authenticated request to an agent of this node."""
        now = clock.monotonic()
        if name in self._contacts and now - age_s - self._heard_at.get(name, 0.0) > HEARD_INTERVAL_S:
            self._heard_at[name] = now - age_s
            self.post(events.PeerHeard(name, age_s))

    # Effects

    def _execute(self, effect: events.Effect) -> None:
        match effect:
            case events.SendDatagram(contact=contact, datagram=datagram):
                self.transport.send(contact, datagram)
            case events.CompareTables(target=target):
                self._anti_entropy.ask(target)
            case events.ReadView() | events.ChangeView():
                if not self._worker.try_submit(effect):
                    logger.info("register_operation_refused operation=%s", type(effect).__name__)
            case events.AnnounceMember():
                self._announce_member(effect)
            case events.AnnounceView(view=view):
                self._announce_view(view)
            case events.AnnounceSettings(settings=settings):
                self._announce_settings(settings)
            case events.AnnounceConflict(refused=refused, address=address, holder=holder):
                logger.warning("identity_conflict refused=%s address=%s holder=%s", refused, address, holder)
                self.event_log.add(IdentityConflict(refused, address, holder))
            case events.StopAgent(error=error):
                logger.error("agent_stopped_on_conflict error=%s", error)
                self._on_crash(error)
            case events.AdoptBoot(boot=boot):
                logger.warning("boot_adopted boot=%d reason=the_cluster_knows_a_later_boot", boot)
                self._identities.write(Identity(self.core.monitor.me.uuid, boot))
                self.transport.set_boot(boot)
            case never:
                assert_never(never)

    def _announce_member(self, effect: events.AnnounceMember) -> None:
        member, before = effect.member, effect.before
        kind = change_kind(member, before)
        state = before.state.label if before else "unknown"
        services = tuple(member.living_services())
        logger.info(
            "member_%s name=%s node_id=%s incarnation=%d state=%s before=%s services=%s by=%s",
            kind,
            member.name,
            member.node_id,
            member.incarnation,
            member.state.label,
            state,
            "+".join(services) or "none",
            effect.accuser or "-",
        )
        self.event_log.add(
            MemberChanged(
                kind, member.name, member.node_id, member.state.label, state, services, effect.accuser
            )
        )

    def _announce_view(self, view: View) -> None:
        up = view.up_names()
        logger.info(
            "view_changed version=%d term=%d leader=%s up=%s",
            view.version,
            view.term,
            view.leader,
            ",".join(up),
        )
        if view.voters and not view.voters_before:
            try:
                self._voters.save(view.voters)
            except DiskFull as error:  # only the next start uses the file; the view itself names the voters
                logger.warning("voters_not_saved error=%s", error)
        with self.changed:
            self.view = view
            self.changed.notify_all()
        self.event_log.add(ViewChanged(view.version, view.term, view.leader, tuple(up)))

    def _announce_settings(self, settings: Settings) -> None:
        detector = settings.detector.label
        logger.info(
            "settings_changed version=%d detector=%s suspicion=%s",
            settings.version,
            detector,
            "on" if settings.suspicion else "off",
        )
        self.event_log.add(SettingsChanged(settings.version, detector, settings.suspicion))

    # The register

    def _work(self, job: events.ReadView | events.ChangeView) -> None:
        outcome = self._use_register(job)
        # The core waits for this one event before it uses the register again: it must not get lost.
        while not self.post(outcome):
            if self.stopping.wait(OUTCOME_RETRY_S):
                return

    def _fail(self, error: Exception) -> bool:
        self._on_crash(error)
        return False

    def _own_votes(self) -> list[str]:
        """Returns the register if this node votes on it, according to a majority of the voters."""
        return [REGISTER] if self.config.name in self.register.voters() else []

    def _use_register(self, job: events.ReadView | events.ChangeView) -> events.Event:
        try:
            if isinstance(job, events.ReadView):
                return events.ViewLearned(self.register.read())
            members, reporters = job.members, job.reporters
            return events.ViewLearned(
                self.register.change(lambda view: views.propose(view, members, reporters) or view)
            )
        except RainStormError as error:
            logger.info("register_failed operation=%s error=%s", type(job).__name__, error)
            return events.RegisterFailed(error)


def _share_one_heap() -> None:
    """Makes all threads allocate from one heap of the C library. With a heap for the thread of each
    connection, this small agent took 39 MiB instead of 37. The threads allocate little, and mostly one at a
    time.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such setting
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
