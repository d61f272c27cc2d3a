"""What the failure detector sends: datagrams filled with gossip, with what the receiver must hear first.

The buddy rule (Lifeguard, section IV.C): whoever is doubted hears of it with the very ping or answer that
goes to it, so that it can refute at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.membership import messages
from agent.membership.events import Contact, Effect, SendDatagram
from agent.membership.gossip import GossipQueue
from agent.membership.messages import Datagram, Kind, Update
from agent.membership.suspicion import Suspicion
from agent.membership.table import Member, State, Table


class Outbox:
    """Collects the effects of one call of the detector; it reads the detector's state and changes only gossip
    counts.
    """

    def __init__(
        self,
        me: str,
        table: Table,
        gossip: GossipQueue,
        suspicions: Mapping[str, Suspicion],
        contacts: Mapping[str, Contact],
    ) -> None:
        self.effects: list[Effect] = []
        self.view_version = 0
        self._me = me
        self._table = table
        self._gossip = gossip
        self._suspicions = suspicions
        self._contacts = contacts

    def send_table(self, name: str, kind: Kind) -> None:
        """Sends all records, in as many datagrams as it takes."""
        groups = messages.split([self._record(member) for member in self._table])
        self._emit(name, Datagram(kind, updates=groups[0]))
        for group in groups[1:]:
            self._emit(name, Datagram(Kind.SYNC_REPLY, updates=group))

    def send(self, name: str, kind: Kind, sequence: int = 0, target: str = "") -> None:
        """Sends one datagram, filled up with gossip."""
        room = messages.DATAGRAM_BYTES_MAX - messages.OVERHEAD_BYTES
        updates: tuple[Update, ...] = ()
        # The buddy rule: whoever is doubted hears it with the very ping or answer, so that it can refute at
        # once.
        for subject in dict.fromkeys((name, target)):
            doubted = self._table.get(subject)
            if doubted is not None and doubted.state is not State.ALIVE:
                updates += (self._record(doubted),)
                room -= messages.update_bytes(updates[-1])
        updates += self._gossip.take(self._table.live_count, room)
        self._emit(name, Datagram(kind, sequence, target, updates=updates))

    def _record(self, member: Member) -> Update:
        suspicion = self._suspicions.get(member.name)
        if suspicion is not None:
            return Update(member, suspicion.accusers[0])
        return Update(member, self._me if member.state is State.DEAD else "")

    def _emit(self, name: str, datagram: Datagram) -> None:
        member = self._table.get(name)
        contact = Contact(member.address, member.port) if member is not None else self._contacts.get(name)
        if contact is not None:
            full = replace(datagram, view_version=self.view_version, digest=self._table.digest)
            self.effects.append(SendDatagram(name, contact, full))
