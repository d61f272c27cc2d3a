"""What schedules found in membership and the view, each with what was wrong."""

from __future__ import annotations

from tests.simulation.machine.schedule import Schedule, Step

FOUND: dict[str, Schedule] = {
    # The digest of a table was the XOR of CRCs: equal differences of two records cancelled each other out, so
    # that nobody ever told vm2 that both others had refuted.
    "two suspects with equal differences": Schedule(
        seed=60, size=3, variant="swim 3 0", steps=(Step(1.0, "deafen", ("vm2",), 2.0),)
    ),
    # vm5 was evicted for hearing nobody, which left four nodes up, where one reporter is enough: vm5 itself.
    "an evicted node evicts others": Schedule(
        seed=69,
        size=5,
        variant="swim 3 0",
        steps=(Step(5.0, "deafen", ("vm5",), 4.0), Step(9.0, "filter", ("vm5",), 2.0)),
    ),
    # A datagram sealed in the name of vm3 came from another address: it was dropped, but its boot was
    # remembered, and so vm2 dropped everything that vm3 said from then on.
    "an impostor locks a node out": Schedule(
        seed=11, size=3, variant="swim 3 0", steps=(Step(4.0, "visit", ("vm2",), 0.3, 0.9),)
    ),
    # Events are counted from 1 in each life of an agent: a follower of the earlier one missed the first.
    "a follower across a restart": Schedule(
        seed=32, size=3, variant="swim 3 0", steps=(Step(7.5, "power_all", (), 2.0),)
    ),
}
