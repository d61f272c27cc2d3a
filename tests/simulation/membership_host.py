"""A simulated membership agent: the real core, codec, seal and register protocol on the simulated network.

``Cluster`` builds a world of such agents and keeps the history that the checks look at: every view that any
node ever learned and every change of state that any node ever saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.common import message
from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.common.errors import NoMajority, RainStormError
from agent.common.register import (
    Answer,
    AnswerReceived,
    Ask,
    Failed,
    Finished,
    Proposal,
    Read,
    VoterFailed,
    Wait,
    settled,
)
from agent.membership import datagrams
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.dissemination import exchange
from agent.membership.core.dissemination.seal import Opener, Sealer
from agent.membership.core.node import MembershipCore
from agent.membership.member import Member, State
from agent.membership.view import UP, View
from agent.wire.codec import framing
from tests.simulation.network import LinkSettings
from tests.simulation.voter import Voter, answer_of
from tests.simulation.world import Node, World

KEY = bytes(range(32))
PORT = 7100
VOTER_TIMEOUT_S = 1.0
OPERATION_TIMEOUT_S = 3.0


def view_of(value: Any) -> View | None:
    """Returns the view that a register holds."""
    return None if value is None else View.from_fields(value)


class Operation:
    """One read or change of the view register under way."""

    def __init__(self, proposal: Proposal | None) -> None:
        self.proposal = proposal
        self.answers: list[Answer] = []
        self.failures = 0
        self.over = False


@dataclass(frozen=True, slots=True)
class Sighting:
    """One node saw another one change its state."""

    at: float
    observer: str
    member: Member


class MembershipHost:
    """One node's membership agent in the simulator."""

    def __init__(self, node: Node, cluster: Cluster) -> None:
        self._node = node
        self._cluster = cluster
        index = cluster.names.index(node.name)
        boot = len(node.disk.read("boots")) + 1
        if boot == 1:  # a new disk is another identity
            node.disk.write_durably("uuid", f"{index + 1:016x}{node.generation:016x}".encode())
        uuid = node.disk.read("uuid").decode()
        node.disk.append_durably("boots", b"x")
        contacts = {name: events.Contact(f"10.0.0.{i + 1}", PORT) for i, name in enumerate(cluster.names)}
        contact = contacts[node.name]
        me = Member(node.name, uuid, boot, 0, State.ALIVE, contact.address, contact.port)
        self.boot = boot
        self.core = MembershipCore(me, contacts, cluster.voters, cluster.config, node.random("swim"))
        self.register_works = True
        self._voter = Voter(node)
        self._session = node.random("session").randbytes(16)
        self._sealer = Sealer(KEY, node.name, boot, self._session)
        self._opener = Opener(KEY)
        self._rng = node.random("proposer")
        self._operation: Operation | None = None
        self._asks: dict[int, tuple[str, int, Operation]] = {}
        self._next_id = 0
        self._counter = 0
        self.dropped = 0
        # A node that receives no datagrams while its streams work: a broken firewall rule.
        self.deaf = False
        node.after(0.0, lambda: self.post(events.Started()))

    def post(self, event: Any) -> None:
        """Hands an event to the core and carries out the effects."""
        for effect in self.core.handle(self._node.now, event):
            self._execute(effect)

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        if data[:1] == b"D" and self.deaf:
            self.dropped += 1
            return
        if data[:1] == b"D":
            try:
                opened = self._opener.open(data[1:])
                datagram = datagrams.decode(opened.data)
            except RainStormError:
                self.dropped += 1
                return
            assert opened.sender == sender
            self.post(events.DatagramReceived(sender, opened.boot, datagram))
            return
        frame = framing.decode(data[1:])
        header = frame.header
        if "reply" in header:
            self._answered(header)
        elif header["type"] in ("compare", "digests", "swap", "records"):
            self._exchange(sender, frame)
        else:
            self.post(events.PeerHeard(sender))
            reply = framing.encode(framing.Frame(self._voter.answer_frame(header)))
            self._node.reconnect(sender)
            self._node.send_stream(sender, b"S" + reply)

    def on_timer(self, now: float) -> None:
        self.post(Tick())

    def next_deadline(self) -> float | None:
        return self.core.next_deadline()

    def on_unreachable(self, now: float, target: str) -> None:
        for number in [number for number, ask in self._asks.items() if ask[0] == target]:
            self._fail(number)

    def check_invariants(self) -> None:
        self.core.check_invariants()

    def _execute(self, effect: events.Effect) -> None:
        match effect:
            case events.SendDatagram(target=target, datagram=datagram):
                packet = self._sealer.seal(datagrams.encode(datagram))
                assert len(packet) <= 1400, "a datagram that a path may drop"
                self._node.send_datagram(target, b"D" + packet)
            case events.CompareTables(target=target):
                self._tell(target, {"type": "compare", "digest": self.core.monitor.table.digest})
            case events.AnnounceMember(member=member):
                self._cluster.saw(Sighting(self._node.now, self._node.name, member))
            case events.AnnounceView(view=view):
                self._cluster.learned(view)
            case events.ReadView():
                self._begin(Operation(None))
                assert self._operation is not None
                for voter in self._cluster.voters:
                    self._ask(Ask(voter, 0, Read("view")), self._operation)
            case events.ChangeView(members=members, reporters=reporters):
                self._begin_change(lambda view: views.propose(view, members, reporters) or view)
            case events.AnnounceSettings() | events.AnnounceConflict():
                self._node.world.trace(self._node.name, effect)
            case events.StopAgent(error=error):
                raise AssertionError(f"{self._node.name} gives up: {error}")
            case events.AdoptBoot(boot=boot):
                self.boot = boot
                self._node.world.hit("boot adopted")
                self._node.disk.write_durably("boots", b"x" * boot)
                self._sealer = Sealer(KEY, self._node.name, boot, self._node.random("session").randbytes(16))

    @property
    def register_busy(self) -> bool:
        """Tells whether a register operation is under way."""
        return self._operation is not None and not self._operation.over

    # The exchange of tables

    def _tell(self, target: str, header: dict[str, Any], payload: bytes = b"") -> None:
        self._node.reconnect(target)
        self._node.send_stream(target, b"S" + framing.encode(framing.Frame(header, payload)))

    def _exchange(self, sender: str, frame: framing.Frame) -> None:
        """Does what ``agent.membership.shell.exchange`` does, in one-way messages that nobody waits for."""
        header, roster = frame.header, self.core.monitor.roster
        if header["type"] in ("compare", "swap"):
            self.post(events.PeerHeard(sender))
        if header["type"] in ("swap", "records"):
            self._node.world.hit("tables swapped")
        match header["type"]:
            case "compare" if header["digest"] != roster.table.digest:
                self._tell(sender, {"type": "digests", "digests": exchange.digests(roster.table)})
            case "digests":
                parts = exchange.differing(exchange.digests(roster.table), header["digests"])
                mine = exchange.pack(exchange.records(roster, parts, sender))
                self._tell(sender, {"type": "swap", "parts": parts}, mine)
            case "swap":
                mine = exchange.pack(exchange.records(roster, header["parts"], sender))
                self._tell(sender, {"type": "records"}, mine)
                self.post(events.TableReceived(sender, exchange.unpack(frame.payload)))
            case "records":
                self.post(events.TableReceived(sender, exchange.unpack(frame.payload)))

    # The register

    def _begin(self, operation: Operation) -> None:
        assert self._operation is None or self._operation.over, "two register operations at a time"
        self._operation = operation
        self._node.after(OPERATION_TIMEOUT_S, lambda: self._give_up(operation))

    def _begin_change(self, change: Callable[[View | None], View | None]) -> None:
        def changed(value: Any) -> Any:
            view = change(view_of(value))
            return None if view is None else view.as_fields()

        name = f"{self._node.name}/{self._node.generation}"
        proposal = Proposal("view", changed, self._cluster.voters, name, self._rng, self._counter)
        operation = Operation(proposal)
        self._begin(operation)
        self._carry_out(operation, proposal.start())

    def _carry_out(self, operation: Operation, effects: Sequence[Any]) -> None:
        assert operation.proposal is not None
        for effect in effects:
            match effect:
                case Ask():
                    self._ask(effect, operation)
                case Wait(delay_s=delay_s):
                    self._node.after(delay_s, lambda: self._retry(operation))
                case Failed(error=error):
                    self._end(operation, events.RegisterFailed(error))
                case Finished(value=value):
                    self._counter = operation.proposal.counter
                    self._cluster.learned(view_of(value))
                    self._end(operation, events.ViewLearned(view_of(value)))

    def _retry(self, operation: Operation) -> None:
        if not operation.over:
            assert operation.proposal is not None
            self._carry_out(operation, operation.proposal.retry())

    def _ask(self, ask: Ask, operation: Operation) -> None:
        self._next_id += 1
        number = self._next_id
        self._asks[number] = (ask.voter, ask.attempt, operation)
        header = {**message.encode(ask.request), "type": type(ask.request).__name__.lower(), "id": number}
        self._node.reconnect(ask.voter)
        self._node.send_stream(ask.voter, b"S" + framing.encode(framing.Frame(header)))
        self._node.after(VOTER_TIMEOUT_S, lambda: self._fail(number))

    def _answered(self, header: Mapping[str, Any]) -> None:
        voter, attempt, operation = self._asks.pop(header["reply"], ("", 0, None))
        if operation is None or operation.over:
            return
        found = answer_of(header)
        if operation.proposal is not None:
            self._carry_out(operation, operation.proposal.handle(AnswerReceived(voter, attempt, found)))
            return
        operation.answers.append(found)
        same = settled(operation.answers, self._cluster.voters)
        if same is not None:
            self._end(operation, events.ViewLearned(view_of(same.value)))
        else:
            self._check_read(operation)

    def _fail(self, number: int) -> None:
        voter, attempt, operation = self._asks.pop(number, ("", 0, None))
        if operation is None or operation.over:
            return
        if operation.proposal is not None:
            self._carry_out(operation, operation.proposal.handle(VoterFailed(voter, attempt)))
            return
        operation.failures += 1
        self._check_read(operation)

    def _check_read(self, operation: Operation) -> None:
        if len(operation.answers) + operation.failures == len(self._cluster.voters):
            operation.over = True
            self._begin_change(lambda value: value)

    def _give_up(self, operation: Operation) -> None:
        if not operation.over:
            self._end(operation, events.RegisterFailed(NoMajority("the voters do not answer in time")))

    def _end(self, operation: Operation, event: events.Event) -> None:
        operation.over = True
        self.post(event)


class Cluster:
    """A world of membership agents, and what they saw."""

    def __init__(
        self,
        seed: int | str,
        nodes: int = 5,
        voters: int = 5,
        *,
        config: MembershipConfig | None = None,
        link: LinkSettings | None = None,
    ) -> None:
        self.world = World(seed, link=link)
        self.config = config or MembershipConfig()
        self.names = [f"n{index + 1}" for index in range(nodes)]
        self.voters = self.names[:voters]
        self.views: dict[int, View] = {}
        self.sightings: list[Sighting] = []
        for name in self.names:
            self.world.add(name, lambda node: MembershipHost(node, self))

    def host(self, name: str) -> MembershipHost:
        """Returns the agent of a node that is up."""
        host = self.world.nodes[name].host
        assert isinstance(host, MembershipHost)
        return host

    def running(self) -> list[str]:
        """Returns the names of the nodes that are up."""
        return [name for name in self.names if self.world.nodes[name].up]

    def saw(self, sighting: Sighting) -> None:
        """Keeps a change of state that a node saw."""
        self.sightings.append(sighting)
        member = sighting.member
        self.world.trace("saw", sighting.observer, member.name, member.boot, member.state.label)

    def learned(self, view: View | None) -> None:
        """Checks a view that a node learned against all others: one view a version, one leader a term."""
        if view is None:
            return
        number = view.version
        known = self.views.setdefault(number, view)
        assert known == view, f"two views of version {number}: {known} and {view}"
        self.world.trace("view", number, view.term, view.leader, *view.up_names())
        for other in self.views.values():
            if other.term == view.term:
                assert other.leader == view.leader, f"two leaders of term {view.term}"
            elif (other.version < number) != (other.term < view.term):
                raise AssertionError(f"terms go back: {other} and {view}")

    def up(self, name: str) -> list[str]:
        """Returns the nodes that are up in the view that ``name`` knows."""
        view = self.host(name).core.proposer.view
        return view.up_names() if view is not None else []

    def agree_on(self, names: Sequence[str], observers: Sequence[str] | None = None) -> bool:
        """Tells whether all observers know one and the same view, with exactly ``names`` up and alive."""
        watching = self.running() if observers is None else observers
        current = [self.host(name).core.proposer.view for name in watching]
        if any(view is None or view != current[0] for view in current):
            return False
        if any(self.up(name) != sorted(names) for name in watching):
            return False
        alive = [
            sorted(m.name for m in self.host(name).core.monitor.table if m.state is State.ALIVE)
            for name in watching
        ]
        return all(found == sorted(names) for found in alive)

    def form(self) -> float:
        """Runs until all nodes agree on a view of all; returns how long that took."""
        return self.world.wait_for(lambda: self.agree_on(self.names), 10.0, "the cluster forms")

    def believed_dead(self, name: str, observers: Sequence[str]) -> bool:
        """Tells whether all observers hold ``name`` for dead."""
        found = [self.host(observer).core.monitor.table.get(name) for observer in observers]
        return all(member is not None and member.state is State.DEAD for member in found)

    def deaths(self, observers: Sequence[str], since: float = 0.0) -> list[Sighting]:
        """Returns the death sentences that the observers passed or believed since ``since``."""
        return [
            sighting
            for sighting in self.sightings
            if sighting.member.state is State.DEAD and sighting.observer in observers and sighting.at >= since
        ]

    def ever_down(self) -> set[str]:
        """Returns the names of the nodes that any view called down."""
        return {
            name for view in self.views.values() for name, entry in view.nodes.items() if entry.state != UP
        }
