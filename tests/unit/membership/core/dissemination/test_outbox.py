"""The detector's datagrams: filled up with gossip, and with the suspicion that the receiver must hear."""

from __future__ import annotations

from agent.membership import datagrams
from agent.membership.core import events
from agent.membership.core.dissemination.outbox import Outbox
from agent.membership.core.events import Contact
from agent.membership.datagrams import Datagram, Kind
from agent.membership.member import State
from tests.unit.membership.core.detectors.test_swim import Bench, member


def outbox(bench: Bench) -> Outbox:
    bench.monitor.roster.effects = []
    return Outbox(bench.monitor.roster, {"n9": Contact("10.0.0.9", 7100)})


def sent(bench: Bench) -> list[tuple[str, Contact, Datagram]]:
    found = [each for each in bench.monitor.roster.effects if isinstance(each, events.SendDatagram)]
    return [(each.target, each.contact, each.datagram) for each in found]


def test_a_suspect_learns_of_its_suspicion_with_the_ping_itself() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.SUSPECT), "n2")
    out = outbox(bench)
    out.send("n3", Kind.PING, 7, "n3")
    out.send("n2", Kind.INDIRECT_PING, 7, "n3")
    out.send("n4", Kind.PING, 8, "n4")
    about = [[update.member.name for update in datagram.updates] for _, _, datagram in sent(bench)]
    assert about[0][0] == "n3"
    assert about[1][0] == "n3", "the helper learns about the member that it pings"
    assert [datagram.sequence for _, _, datagram in sent(bench)] == [7, 7, 8]


def test_a_datagram_fits_whatever_is_to_be_told() -> None:
    bench = Bench()
    for number in range(200):
        name = f"node-{number}-{'x' * 40}"
        made = member("n2")
        bench.monitor.roster.put(
            bench.now, type(made)(name, f"{number + 99:032x}", 1, 0, State.SUSPECT, "10.0.0.2", 7100), "n2"
        )
    out = outbox(bench)
    out.send("n2", Kind.PING, 1, "n2")
    ((_, _, datagram),) = sent(bench)
    assert len(datagrams.encode(datagram)) <= datagrams.DATAGRAM_BYTES_MAX
    assert len(datagram.updates) > 5


def test_a_hello_goes_to_a_contact_that_is_not_known_yet() -> None:
    bench = Bench()
    out = outbox(bench)
    out.view_version = 12
    out.send_hello("n9", Kind.HELLO)
    out.send_hello("n8", Kind.HELLO)
    ((target, contact, datagram),) = sent(bench)
    assert (target, contact, datagram.view_version) == ("n9", Contact("10.0.0.9", 7100), 12)
    assert [update.member.name for update in datagram.updates] == ["n1"]


def test_a_second_node_of_an_identity_is_refused_at_its_own_address() -> None:
    bench = Bench()
    outbox(bench).refuse(member("n5"))
    ((target, contact, datagram),) = sent(bench)
    assert (target, contact, datagram.kind) == ("n5", Contact("10.0.0.5", 7100), Kind.REFUSAL)
