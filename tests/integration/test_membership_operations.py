"""Five running membership agents, and the requests of operators and of other agents to them."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import yaml

from agent.common.errors import Conflict, NotFound, Unavailable, UsageError
from agent.membership.client import MemberChanged, MembershipClient
from agent.membership.messages.members import MemberReport
from ops.cluster.keyrotation import rotate
from tests.integration.agents import Agents
from tests.support import PATIENCE_S, REPOSITORY, wait_until

pytestmark = pytest.mark.integration

NAMES = ["n1", "n2", "n3", "n4", "n5"]
WITHOUT_N4 = ["n1", "n2", "n3", "n5"]
# The time within which all nodes know of a crashed service; this machine may be running other tests.
SERVICE_CRASH_KNOWN_S = 0.3
# 35.2 MB of it are code and libraries. The rest grows with the connections: 38.7 MB with 11 threads, 39.6 MB
# with 22.
RSS_BYTES_MAX = 40 * 1000 * 1000

ATTACHED = """
import sys, threading
from agent.membership.attachment import Attachment
Attachment(sys.argv[1], sys.argv[2]).start()
threading.Event().wait()
"""


# Five agents for all tests that start and stop none of them.
@pytest.fixture(scope="module")
def cluster() -> Iterator[Agents]:
    yield from five()


@pytest.fixture
def alone() -> Iterator[Agents]:
    yield from five()


def five() -> Iterator[Agents]:
    with Agents(NAMES, voters=3) as agents:
        agents.start()
        wait_until(lambda: all(up(agents, name) == NAMES for name in NAMES), PATIENCE_S, "all are up")
        yield agents


def member(cluster: Agents, name: str) -> MembershipClient:
    return MembershipClient(cluster.client, cluster.address(name))


def up(cluster: Agents, name: str) -> list[str]:
    nodes = member(cluster, name).view().nodes
    return sorted(node for node, entry in nodes.items() if entry.state == "up")


def record(cluster: Agents, observer: str, name: str) -> MemberReport:
    found = member(cluster, observer).members().members
    return next(entry for entry in found if entry.name == name)


def changes(cluster: Agents, observer: str, since: int = 0) -> list[MemberChanged]:
    found = member(cluster, observer).events(since, 0.0).events
    return [event for event in found if isinstance(event, MemberChanged)]


def dropped(cluster: Agents, name: str) -> int:
    return member(cluster, name).members().datagrams.dropped


def deaths(cluster: Agents) -> list[str]:
    found = list[str]()
    for name in NAMES:
        found += [f"{name} says {event.name}" for event in changes(cluster, name) if event.kind == "dead"]
    return found


def test_strangers_are_ignored_and_the_agents_stay_small(cluster: Agents) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for size in (0, 1, 20, 200, 1400):
            stranger.sendto(os.urandom(size), (cluster.addresses["n1"], cluster.port))
    assert up(cluster, "n1") == NAMES
    for name, process in cluster.processes.items():
        rss = psutil.Process(process.pid).memory_info().rss
        assert rss <= RSS_BYTES_MAX, f"{name} takes {rss / 1e6:.1f} MB"


def test_a_second_agent_on_the_same_address_is_refused(cluster: Agents) -> None:
    cluster.processes["second"] = cluster.processes["n1"]
    log = cluster.log_path("n1").read_text()
    try:
        with pytest.raises(AssertionError, match="ended with 1"):
            cluster.start("n1")
    finally:
        cluster.processes["n1"] = cluster.processes.pop("second")
    said = cluster.log_path("n1").read_text()[len(log) :]
    assert "[PORT_IN_USE]" in said
    assert "hint: " in said
    assert up(cluster, "n1") == NAMES


def test_a_crashed_service_is_known_to_all_while_its_machine_lives(cluster: Agents) -> None:
    path = str(cluster.data_dir("n4") / "run" / "membership.sock")
    took = []
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", ATTACHED, path, "hydfs"], cwd=REPOSITORY)
        try:
            wait_until(lambda: services_of_n4(cluster, "up"), PATIENCE_S, "all know that hydfs lives")
            last = {name: member(cluster, name).events(0, 0.0).last for name in NAMES}
            process.kill()
            began = time.time()
            wait_until(lambda: services_of_n4(cluster, "down"), PATIENCE_S, "all know that it died")
        finally:
            process.kill()
            process.wait(PATIENCE_S)
        known = [
            event.wall_at - began
            for name in NAMES
            for event in changes(cluster, name, last[name])
            if event.kind == "services" and event.name == "n4"
        ]
        assert len(known) == len(NAMES)
        took.append(max(known))
    print(f"service crash known to all 5 nodes: {', '.join(f'{t * 1000:.0f} ms' for t in sorted(took))}")
    assert sorted(took)[2] <= SERVICE_CRASH_KNOWN_S
    assert record(cluster, "n1", "n4").state == "alive"


def services_of_n4(cluster: Agents, state: str) -> bool:
    return all(record(cluster, name, "n4").services["hydfs"] == state for name in NAMES)


def test_a_node_leaves_and_joins_again_without_a_restart(cluster: Agents) -> None:
    before = member(cluster, "n1").view().nodes["n5"].node_id
    rest = NAMES[:4]
    member(cluster, "n5").leave()
    wait_until(lambda: all(up(cluster, name) == rest for name in rest), PATIENCE_S, "n5 is out of the view")
    assert record(cluster, "n1", "n5").state == "left"
    member(cluster, "n5").join()
    wait_until(lambda: all(up(cluster, name) == NAMES for name in NAMES), PATIENCE_S, "n5 is back")
    assert member(cluster, "n1").view().nodes["n5"].node_id == before, "it is the same life"
    kinds = [event.kind for event in changes(cluster, "n1") if event.name == "n5"]
    assert kinds[-2:] == ["left", "join"]


def test_the_detector_is_switched_everywhere_and_a_killed_node_is_still_found(alone: Agents) -> None:
    began = member(alone, "n2").view().version
    with pytest.raises(UsageError, match="no failure detector"):
        member(alone, "n1").switch("crystal-ball", None)
    for detector, suspicion in [("heartbeat", True), ("heartbeat", False), ("swim", True)]:
        wanted = member(alone, "n3").switch(detector, suspicion)
        assert (wanted.detector, wanted.suspicion) == (detector, suspicion)
        wait_until(
            lambda wanted=wanted: all(member(alone, n).members().settings == wanted for n in NAMES),  # type: ignore[misc]
            PATIENCE_S,
            "all follow",
        )
        if suspicion:
            continue
        alone.kill("n4")
        wait_until(
            lambda: all(up(alone, n) == WITHOUT_N4 for n in WITHOUT_N4), PATIENCE_S, "n4 is out of the view"
        )
        alone.start("n4")
        wait_until(lambda: all(up(alone, name) == NAMES for name in NAMES), PATIENCE_S, "n4 is back")
        assert member(alone, "n4").members().settings == wanted, "it learnt the setting when it joined"
    assert member(alone, "n2").view().version == began + 2, "no other node came or went"


def test_datagrams_are_thrown_away_on_demand_and_nobody_dies_of_it(cluster: Agents) -> None:
    for percent in (-1, 101):
        with pytest.raises(UsageError, match="0 to 100"):
            member(cluster, "n2").drop(percent)
    with pytest.raises(UsageError, match="percent"):
        member(cluster, "n2").drop(True)
    before = len(deaths(cluster))
    assert member(cluster, "n2").drop() == 0.0
    assert member(cluster, "n2").drop(20.0, seed=1) == 20.0
    wait_until(
        lambda: member(cluster, "n2").members().datagrams.discarded >= 20, PATIENCE_S, "some are thrown away"
    )
    assert member(cluster, "n2").members().datagrams.drop_percent == 20.0
    assert member(cluster, "n2").drop(0.0) == 0.0
    assert len(deaths(cluster)) == before


def test_the_gossip_key_is_rotated_under_load_without_a_death(alone: Agents) -> None:
    before = len(deaths(alone))
    key = secrets.token_hex(32)
    unread = {name: dropped(alone, name) for name in NAMES}
    old = member(alone, "n1").keys("list")[0]
    installed = [member(alone, name).keys("install", key=key) for name in NAMES]
    new = installed[0][1]
    with pytest.raises(Conflict, match="in use"):
        member(alone, "n1").keys("remove", fingerprint=old)
    with pytest.raises(NotFound, match="not installed"):
        member(alone, "n1").keys("use", fingerprint="00000000")
    for name in NAMES:
        assert member(alone, name).keys("use", fingerprint=new) == [new, old]
    for name in NAMES:
        assert member(alone, name).keys("remove", fingerprint=old) == [new]
    stored = alone.data_dir("n3") / "membership" / "gossip.keys"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.read_text() == key + "\n"
    began = {name: member(alone, name).members().datagrams.received_bytes for name in NAMES}
    wait_until(
        lambda: all(
            member(alone, name).members().datagrams.received_bytes > began[name] + 5000 for name in NAMES
        ),
        PATIENCE_S,
        "gossip goes on",
    )
    assert all(up(alone, name) == NAMES for name in NAMES)
    assert len(deaths(alone)) == before
    assert {name: dropped(alone, name) for name in NAMES} == unread, "no datagram was lost to the rotation"
    alone.kill("n3")
    alone.start("n3")
    wait_until(lambda: all(up(alone, name) == NAMES for name in NAMES), PATIENCE_S, "n3 is back")
    assert member(alone, "n3").keys("list") == [new], "the ring survives a restart"


def test_a_rotation_needs_every_node_and_leaves_the_old_key_when_one_is_missing(alone: Agents) -> None:
    clients = {name: member(alone, name) for name in NAMES}
    old = clients["n1"].keys("list")
    done = rotate(clients, secrets.token_hex(32))
    assert list(done.removed) == old
    assert all(client.keys("list") == [done.fingerprint] for client in clients.values())
    alone.kill("n4")
    with pytest.raises(Unavailable, match="needs all nodes, but n4 failed") as caught:
        rotate(clients, secrets.token_hex(32))
    assert caught.value.exit_status == 1
    assert all(clients[name].keys("list") == [done.fingerprint] for name in WITHOUT_N4)


def test_a_voter_is_replaced_while_the_cluster_runs(alone: Agents) -> None:
    with pytest.raises(Conflict, match="already a voter"):
        member(alone, "n5").replace_voter("n1", "n2")
    found = member(alone, "n5").replace_voter("n1", "n4")
    assert found.voters == ("n4", "n2", "n3")
    assert member(alone, "n5").members().voters == (("n4", "n2", "n3"),), "n5 knows them at once"
    wait_until(
        lambda: all(member(alone, name).members().voters == (("n4", "n2", "n3"),) for name in NAMES),
        PATIENCE_S,
        "all know the new voters",
    )
    # Only one of the first voters is left now: they would have no majority.
    alone.kill("n1")
    alone.kill("n2")
    rest = ["n3", "n4", "n5"]
    wait_until(lambda: all(up(alone, name) == rest for name in rest), PATIENCE_S, "both are out of the view")
    alone.kill("n5")
    alone.start("n5", "n1")  # n5 finds the voters without n1 and n2, from its stored names
    rest = ["n1", "n3", "n4", "n5"]
    wait_until(lambda: all(up(alone, name) == rest for name in rest), PATIENCE_S, "two are back")


def test_why_tells_who_accused_whom_and_events_can_be_followed(alone: Agents) -> None:
    last = member(alone, "n1").events(0, 0.0).last
    alone.kill("n5")
    kinds: list[str] = []

    def follow() -> bool:
        nonlocal last
        found = member(alone, "n1").events(last, 1.0)
        last = found.last
        events = [event for event in found.events if isinstance(event, MemberChanged)]
        kinds.extend(event.kind for event in events if event.name == "n5")
        return "dead" in kinds

    wait_until(follow, PATIENCE_S, "the death of n5 is reported")
    assert kinds[:2] == ["suspect", "dead"]
    wait_until(lambda: up(alone, "n1") == NAMES[:4], PATIENCE_S, "n5 is out of the view")
    # Another node may have had two reporters before this one has heard of both.
    wait_until(lambda: len(member(alone, "n1").why("n5").reporters) >= 2, PATIENCE_S, "two report n5")
    why = member(alone, "n1").why("n5")
    assert why.state == "dead"
    accusers = [entry.by for entry in why.history if entry.what == "accused"]
    assert len(set(accusers)) >= 2
    assert set(accusers) <= set(NAMES[:4])
    with pytest.raises(NotFound):
        member(alone, "n1").why("n9")
    probed = {m.name: m for m in member(alone, "n1").members(probe=True).members}
    assert (probed["n2"].udp, probed["n2"].tcp, probed["n5"].tcp) == (True, True, False)
    alone.start("n5")
    wait_until(lambda: all(up(alone, name) == NAMES for name in NAMES), PATIENCE_S, "n5 is back")


def test_garbage_is_dropped_and_counted(cluster: Agents) -> None:
    rng = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(20):  # small bursts: the agent never gets datagrams that overflow the socket's buffer
            counted = dropped(cluster, "n1") + 8
            for size in [0, 1, 2, 40, 80, 200, 1400, 9000]:
                stranger.sendto(rng.randbytes(size), (cluster.addresses["n1"], cluster.port))
            wait_until(lambda wanted=counted: dropped(cluster, "n1") >= wanted, PATIENCE_S, "all are counted")  # type: ignore[misc]
    assert up(cluster, "n1") == NAMES


def test_a_cloned_machine_is_refused_by_name(cluster: Agents) -> None:
    clone = yaml.safe_load(cluster.config_path("n3").read_text())
    folder = cluster.folder / "clone"
    shutil.copytree(cluster.data_dir("n3") / "membership", folder / "membership")
    clone["data_dir"] = str(folder)
    for peer in clone["peers"]:
        if peer["name"] == "n3":
            peer["address"] = cluster.unused_address
    clone["voters"] = ["n1", "n2", "n3"]
    path = cluster.folder / "clone.yaml"
    path.write_text(yaml.safe_dump(clone))
    found = subprocess.run(
        [sys.executable, "-m", "agent", "membership", "--config", str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == 1, found.stderr
    assert "refuses this node" in found.stderr
    assert up(cluster, "n1") == NAMES
    events = [event for name in NAMES for event in member(cluster, name).events(0, 0).events]
    assert any(event.kind == "conflict" for event in events)
    assert record(cluster, "n1", "n3").address == cluster.addresses["n3"]
