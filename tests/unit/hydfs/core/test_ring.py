"""Placement: deterministic, distinct nodes, small moves."""

from __future__ import annotations

from collections import Counter

from agent.hydfs.core.ring import Ring, block_token

NODES = [f"vm{index}" for index in range(1, 11)]


def test_successors_are_distinct_and_do_not_depend_on_the_order_of_nodes() -> None:
    one, other = Ring(NODES), Ring(list(reversed(NODES)))
    for number in range(200):
        token = block_token("file", number)
        chosen = one.successors(token, 3)
        assert len(set(chosen)) == 3
        assert chosen == other.successors(token, 3)


def test_a_lost_node_moves_only_its_own_blocks() -> None:
    before, after = Ring(NODES), Ring([node for node in NODES if node != "vm4"])
    for number in range(500):
        token = block_token("file", number)
        chosen = before.successors(token, 3)
        kept = [node for node in chosen if node != "vm4"]
        assert after.successors(token, 3)[: len(kept)] == kept


def test_load_is_spread() -> None:
    ring = Ring(NODES)
    count = Counter(node for number in range(3000) for node in ring.successors(block_token("f", number), 3))
    assert max(count.values()) < 1.5 * 900
    assert min(count.values()) > 0.5 * 900


def test_avoided_nodes_come_last_and_only_when_needed() -> None:
    ring = Ring(NODES[:4])
    token = block_token("f", 0)
    first = ring.successors(token, 4)
    assert ring.successors(token, 3, avoid=[first[0]]) == first[1:]
    assert ring.successors(token, 4, avoid=[first[0]]) == [*first[1:], first[0]]
    assert ring.successors(token, 3, avoid=first) == first[:3]
    assert Ring([]).successors(token, 3) == []


def test_nodes_without_a_store_are_not_chosen_even_when_the_others_are_too_few() -> None:
    ring = Ring(NODES[:3])
    token = block_token("f", 0)
    first = ring.successors(token, 3)
    assert ring.successors(token, 3, avoid=[first[0]], gone=[first[0]]) == first[1:]
    assert ring.successors(token, 3, avoid=first[:2], gone=[first[0]]) == [first[2], first[1]]
