"""When a machine may be stopped: every reason against it is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ops.cluster.status import SERVICES, ClusterStatus, NodeStatus

NODES = [NodeStatus(f"vm{n}", "127.0.0.1", "up", "00", dict.fromkeys(SERVICES, True)) for n in (1, 2)]
WELL = ClusterStatus(
    "c",
    NODES,
    leader="vm1",
    majority=True,
    all_alive=True,
    under_replicated=0,
    repair_waiting=0,
    repair_checked=True,
)


def test_a_healthy_cluster_is_settled() -> None:
    assert WELL.settled
    assert WELL.unsettled() == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (replace(WELL, nodes=[replace(NODES[0], state="down"), NODES[1]], all_alive=False), "vm1: view down"),
        (replace(WELL, majority=False), "no majority"),
        (replace(WELL, majority=None), "majority is unknown"),
        (replace(WELL, leader=None), "no leader"),
        (replace(WELL, under_replicated=3), "3 blocks"),
        (replace(WELL, repair_waiting=2), "2 files"),
        (replace(WELL, repair_checked=False), "not yet checked"),
        (replace(WELL, under_replicated=None, repair_checked=False), "not yet checked"),
    ],
)
def test_every_reason_against_it_is_named(broken: ClusterStatus, said: str) -> None:
    assert not broken.settled
    assert any(said in reason for reason in broken.unsettled())
