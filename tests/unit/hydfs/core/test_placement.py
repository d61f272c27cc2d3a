"""Placement: deterministic, distinct nodes, small moves."""

from __future__ import annotations

from collections import Counter

from agent.hydfs.core.placement import choose, order

NODES = [f"vm{index}" for index in range(1, 11)]


def test_the_nodes_of_a_block_are_distinct_and_do_not_depend_on_the_order_of_nodes() -> None:
    for number in range(200):
        chosen = choose("file", number, NODES, 3)
        assert len(set(chosen)) == 3
        assert chosen == choose("file", number, list(reversed(NODES)), 3)
        assert chosen == order("file", number, NODES)[:3]


def test_a_lost_node_moves_only_its_own_blocks() -> None:
    others = [node for node in NODES if node != "vm4"]
    for number in range(500):
        kept = [node for node in choose("file", number, NODES, 3) if node != "vm4"]
        assert choose("file", number, others, 3)[: len(kept)] == kept


def test_load_is_spread() -> None:
    count = Counter(node for number in range(3000) for node in choose("f", number, NODES, 3))
    assert max(count.values()) < 1.5 * 900
    assert min(count.values()) > 0.5 * 900


def test_avoided_nodes_come_last_and_only_when_needed() -> None:
    nodes = NODES[:4]
    first = choose("f", 0, nodes, 4)
    assert choose("f", 0, nodes, 3, avoid=[first[0]]) == first[1:]
    assert choose("f", 0, nodes, 4, avoid=[first[0]]) == [*first[1:], first[0]]
    assert choose("f", 0, nodes, 3, avoid=first) == first[:3]
    assert choose("f", 0, [], 3) == []


def test_nodes_without_a_store_are_not_chosen_even_when_the_others_are_too_few() -> None:
    nodes = NODES[:3]
    first = choose("f", 0, nodes, 3)
    assert choose("f", 0, nodes, 3, avoid=[first[0]], gone=[first[0]]) == first[1:]
    assert choose("f", 0, nodes, 3, avoid=first[:2], gone=[first[0]]) == [first[2], first[1]]
