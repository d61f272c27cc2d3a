"""What the swarm found in membership and the view, each with what was wrong."""

from __future__ import annotations

from tests.simulation.schedule import Schedule, Step

FOUND: dict[str, Schedule] = {
    # The digest of a table was the XOR of CRCs: equal differences of two records cancelled each other out, so
    # that nobody ever told n2 that both others had refuted.
    "two suspects with equal differences": Schedule(
        seed=60,
        nodes=3,
        voters=3,
        steps=(Step(at_s=1.0, kind="deafen", names=("n2",), duration_s=2.0),),
    ),
    # n5 was evicted for hearing nobody, which left four nodes up, where one reporter is enough: n5 itself.
    "an evicted node evicts others": Schedule(
        seed=69,
        nodes=5,
        voters=3,
        steps=(
            Step(at_s=5.0, kind="deafen", names=("n5",), duration_s=4.0),
            Step(at_s=9.0, kind="filter", names=("n5",), duration_s=2.0),
        ),
    ),
}
