"""The datagrams that the failure detector sends, filled up with gossip.

The buddy rule (Lifeguard, section IV.C): a ping or an answer to a suspected member carries the suspicion, so
that the member can refute at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.membership import datagrams
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.events import Contact, SendDatagram
from agent.membership.datagrams import Beat, Datagram, Kind, Update
from agent.membership.member import Member, State


class Outbox:
    """Adds datagrams to the effects of the roster, and only reads the roster's beliefs."""

    def __init__(self, roster: Roster, contacts: Mapping[str, Contact]) -> None:
        self.view_version = 0
        self._roster = roster
        self._contacts = contacts

    def send_hello(self, name: str, kind: Kind) -> None:
        """Sends this node's own record and what it believes about the receiver."""
        known = self._roster.table.get(name)
        about = [self._roster.me] if known is None else [self._roster.me, known]
        self._emit(name, kind, tuple([self._roster.record(member) for member in about]))

    def send(
        self, name: str, kind: Kind, sequence: int = 0, target: str = "", beats: tuple[Beat, ...] = ()
    ) -> None:
        """Sends one datagram, filled up with gossip."""
        room = datagrams.DATAGRAM_BYTES_MAX - datagrams.OVERHEAD_BYTES
        if beats:
            room -= sum([datagrams.beat_bytes(beat.name) for beat in beats])
        updates: tuple[Update, ...] = ()
        # The buddy rule: the ping or answer itself carries the suspicion.
        for subject in (name, target) if target and target != name else (name,):
            known = self._roster.table.get(subject)
            if known is not None and known.state is not State.ALIVE:
                updates += (self._roster.record(known),)
                room -= datagrams.update_bytes(updates[-1])
        updates += self._roster.gossip.take(self._roster.table.live_count, room)
        self._emit(name, kind, updates, sequence, target, beats)

    def refuse(self, member: Member) -> None:
        """Tells a node that claims the identity of another one that it cannot be a member."""
        contact = Contact(member.address, member.port)
        self._roster.effects.append(SendDatagram(member.name, contact, Datagram(Kind.REFUSAL)))

    def _emit(
        self,
        name: str,
        kind: Kind,
        updates: tuple[Update, ...],
        sequence: int = 0,
        target: str = "",
        beats: tuple[Beat, ...] = (),
    ) -> None:
        roster = self._roster
        member = roster.table.get(name)
        contact = Contact(member.address, member.port) if member is not None else self._contacts.get(name)
        if contact is not None:
            settings = roster.settings if roster.settings.version else None
            datagram = Datagram(
                kind, sequence, target, self.view_version, roster.table.digest, updates, settings, beats
            )
            roster.effects.append(SendDatagram(name, contact, datagram))
