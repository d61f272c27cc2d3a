"""The order of probes: every member once in a pass, new ones in the next pass at most."""

from __future__ import annotations

import random

from agent.membership.core.detectors.probing import Probe, Relay, RoundRobin

NAMES = [f"n{number}" for number in range(10)]


def test_every_name_comes_once_in_a_pass_and_passes_differ() -> None:
    order = RoundRobin(random.Random(1))
    passes = [[order.next(lambda: NAMES, lambda name: True) for _ in NAMES] for _ in range(3)]
    for found in passes:
        assert sorted(str(name) for name in found) == sorted(NAMES)
    assert passes[0] != passes[1] != passes[2]


def test_names_that_are_not_allowed_are_passed_over() -> None:
    order = RoundRobin(random.Random(1))
    found = {order.next(lambda: NAMES, lambda name: name in ("n3", "n4")) for _ in range(6)}
    assert found == {"n3", "n4"}
    assert order.next(lambda: NAMES, lambda name: False) is None
    assert RoundRobin(random.Random(1)).next(list, lambda name: True) is None


def test_a_new_name_comes_in_the_next_pass() -> None:
    order, known = RoundRobin(random.Random(1)), ["n1", "n2"]
    order.next(lambda: known, lambda name: True)
    known.append("n3")
    rest = [order.next(lambda: known, lambda name: True) for _ in range(4)]
    assert "n3" in rest


def test_a_probe_and_a_relay_are_due_by_stage() -> None:
    probe = Probe(1, "n1", indirect_at=1.0, ends_at=2.0)
    assert probe.due_at == 1.0
    probe.indirect = True
    assert probe.due_at == 2.0
    relay = Relay("n2", 7, "n1", nack_at=1.5, ends_at=3.0)
    assert relay.due_at == 1.5
    relay.nacked = True
    assert relay.due_at == 3.0
