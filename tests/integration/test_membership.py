"""Five real membership agents, three of them voters, on the loopback addresses."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from agent.common.errors import NotFound
from agent.membership.client import MembershipClient
from agent.wire.client import Client
from tests.integration.agents import Agents
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NAMES = ["n1", "n2", "n3", "n4", "n5"]


@pytest.fixture
def cluster() -> Iterator[Agents]:
    with Agents(NAMES, voters=3) as agents:
        agents.start()
        yield agents


def member(cluster: Agents, name: str) -> MembershipClient:
    return MembershipClient(cluster.client, cluster.address(name))


def up(cluster: Agents, name: str) -> list[str]:
    nodes = member(cluster, name).view().nodes
    return sorted(node for node, entry in nodes.items() if entry.state == "up")


def states(cluster: Agents, name: str) -> dict[str, str]:
    return {entry.name: entry.state for entry in member(cluster, name).members().members}


def wait_for_up(cluster: Agents, names: list[str], observers: list[str]) -> None:
    wait_until(
        lambda: all(up(cluster, observer) == names for observer in observers),
        PATIENCE_S,
        f"{', '.join(observers)} see {', '.join(names)} up",
    )


def test_a_killed_node_leaves_the_view_and_comes_back_as_a_new_life(cluster: Agents) -> None:
    wait_for_up(cluster, NAMES, NAMES)
    before = member(cluster, "n2").view()
    # The node with the first name leads that was up when the first view was agreed on.
    assert before.leader != "n4"
    rest = ["n1", "n2", "n3", "n5"]
    cluster.kill("n4")
    wait_for_up(cluster, rest, rest)
    after = member(cluster, "n2").view()
    assert (after.leader, after.term) == (before.leader, before.term), "the leader survives"
    wanted = {"n1": "alive", "n2": "alive", "n3": "alive", "n4": "dead", "n5": "alive"}
    wait_until(lambda: states(cluster, "n5") == wanted, PATIENCE_S, "n5 believes n4 alone to be dead")
    cluster.start("n4")
    wait_for_up(cluster, NAMES, NAMES)
    old, new = before.nodes["n4"].node_id, member(cluster, "n1").view().nodes["n4"].node_id
    assert (old.split(":")[0], old.split(":")[1], new.split(":")[1]) == (new.split(":")[0], "1", "2")


def test_a_killed_leader_is_replaced_under_a_higher_term(cluster: Agents) -> None:
    wait_for_up(cluster, NAMES, NAMES)
    before = member(cluster, "n3").view()
    rest = [name for name in NAMES if name != before.leader]
    cluster.kill(before.leader)
    wait_for_up(cluster, rest, rest)
    found = member(cluster, rest[0]).view()
    assert (found.leader, found.term) == (rest[0], before.term + 1)
    cluster.start(before.leader)
    wait_for_up(cluster, NAMES, NAMES)
    assert member(cluster, before.leader).view().leader == rest[0]


def test_a_hint_a_paused_node_and_a_node_that_leaves(cluster: Agents) -> None:
    wait_for_up(cluster, NAMES, NAMES)
    with pytest.raises(NotFound):
        member(cluster, "n1").hint("n9")
    cluster.processes["n5"].send_signal(signal.SIGSTOP)
    member(cluster, "n1").hint("n5")
    wait_for_up(cluster, NAMES[:4], NAMES[:4])
    cluster.processes["n5"].send_signal(signal.SIGCONT)
    wait_for_up(cluster, NAMES, NAMES)
    local = Client(None)
    try:
        MembershipClient(local, str(cluster.data_dir("n4") / "run" / "membership.sock")).leave()
    finally:
        local.close()
    # Leaving needs no detection: the node announces it.
    wait_for_up(cluster, ["n1", "n2", "n3", "n5"], ["n1", "n2", "n3", "n5"])
    assert states(cluster, "n1")["n4"] == "left"


def test_without_a_majority_of_voters_the_view_stands_still_and_says_so(cluster: Agents) -> None:
    wait_for_up(cluster, NAMES, NAMES)
    before = member(cluster, "n5").view()
    cluster.kill("n1")
    cluster.kill("n2")
    wait_until(lambda: not member(cluster, "n5").members().majority, PATIENCE_S, "n5 sees no majority")
    cluster.kill("n3")
    wait_until(
        lambda: list(states(cluster, "n5").values()).count("dead") == 3,
        PATIENCE_S,
        "n5 believes three nodes dead",
    )
    found = member(cluster, "n5").view()
    # Both voters died at once: at most one of them can have been evicted while two still answered.
    assert found.version <= before.version + 1
    cluster.start("n1", "n2", "n3")
    wait_for_up(cluster, NAMES, NAMES)
    wait_until(lambda: member(cluster, "n5").members().majority, PATIENCE_S, "n5 sees a majority again")


def test_the_whole_cluster_restarts_over_its_old_view(cluster: Agents) -> None:
    wait_for_up(cluster, NAMES, NAMES)
    before = member(cluster, "n1").view()
    for name in NAMES:
        cluster.kill(name)
    cluster.start()
    wait_until(
        lambda: all(
            entry.node_id.endswith(":2") and entry.state == "up"
            for name in NAMES
            for entry in member(cluster, name).view().nodes.values()
        ),
        PATIENCE_S,
        "the new lives replace the old ones",
    )
    assert member(cluster, "n1").view().term > before.term
