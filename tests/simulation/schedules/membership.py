"""The bugs that schedules found in membership and the view, each with its cause."""

from __future__ import annotations

from tests.simulation.machine.schedule import Schedule, Step
from tests.simulation.machine.wires import Quality

# When the faults of these schedules end: they were found when the time of faults was longer.
FOUND_FAULTS_S = 10.0
FOUND: dict[str, Schedule] = {
    # The digest of a table was the XOR of CRCs: equal differences of two records cancelled each other out, so
    # vm2 never learned that both others had refuted.
    "two suspects with equal differences": Schedule(
        seed=60, size=3, variant="swim 3 0", steps=(Step(1.0, "deafen", ("vm2",), 2.0),)
    ),
    # vm5 was evicted because it heard no one. That left four nodes up, where one reporter is enough: vm5.
    "an evicted node evicts others": Schedule(
        seed=69,
        size=5,
        variant="swim 3 0",
        steps=(Step(5.0, "deafen", ("vm5",), 4.0), Step(9.0, "filter", ("vm5",), 2.0)),
    ),
    # A datagram sealed with vm3's name came from another address: it was dropped, but its boot was
    # remembered, so vm2 dropped everything that vm3 sent from then on.
    "an impostor locks a node out": Schedule(
        seed=11, size=3, variant="swim 3 0", steps=(Step(4.0, "visit", ("vm2",), 0.3, 0.9),)
    ),
    # Events are counted from 1 in each life of an agent: a follower of the earlier one missed the first.
    "a follower across a restart": Schedule(
        seed=32, size=3, variant="swim 3 0", steps=(Step(7.5, "power_all", (), 2.0),)
    ),
    # A sync failed, so a page of the voter's log was only in memory; the agent restarted, read it, and
    # appended behind it. The next loss of power left a hole before good records: a voter lost for good.
    "a log that was read from memory alone": Schedule(
        seed=64,
        size=5,
        variant="heartbeat 3 0.001",
        quality=Quality(
            latency_s_min=0.001, latency_s_max=0.08, loss=0.1, duplication=0.1, reorder=0.0, reorder_s=0.2
        ),
        steps=(
            Step(at_s=0.241, kind="failing_disk", nodes=("vm1",), duration_s=1.0, amount=0.092),
            Step(at_s=1.287, kind="failing_disk", nodes=("vm2",), duration_s=2.0, amount=0.003),
            Step(at_s=1.438, kind="full_disk", nodes=("vm3",), duration_s=2.0, amount=0.776),
            Step(at_s=2.764, kind="full_disk", nodes=("vm5",), duration_s=0.3, amount=0.831),
            Step(at_s=3.047, kind="failing_disk", nodes=("vm5",), duration_s=0.05, amount=0.958),
            Step(at_s=4.565, kind="power", nodes=("vm4",), duration_s=2.0, amount=0.825),
            Step(at_s=6.131, kind="failing_disk", nodes=("vm5",), duration_s=0.05, amount=0.447),
            Step(at_s=6.697, kind="power", nodes=("vm1",), duration_s=0.05, amount=0.486),
        ),
    ),
    # vm2 refuted vm6 while vm1 heard no datagrams. Then vm1 accused vm2 too, which had already refuted that
    # and did not answer: vm6 and vm1, two reporters, evicted it.
    "a refutation that the second accuser missed": Schedule(
        seed=137,
        size=7,
        variant="swim 5 0",
        steps=(
            Step(at_s=1.592, kind="filter", nodes=("vm3",), duration_s=1.0, amount=0.813),
            Step(at_s=2.307, kind="filter", nodes=("vm6",), duration_s=2.0, amount=0.047),
            Step(at_s=3.486, kind="filter", nodes=("vm1",), duration_s=0.3, amount=0.468),
            Step(at_s=4.969, kind="filter", nodes=("vm6",), duration_s=0.05, amount=0.172),
            Step(at_s=5.151, kind="filter", nodes=("vm3",), duration_s=0.3, amount=0.706),
            Step(at_s=6.459, kind="filter", nodes=("vm5",), duration_s=2.0, amount=0.241),
        ),
    ),
}
