"""Replaces the key of the gossip datagrams on all nodes of a running cluster without losing a datagram.

There are three steps, and each is completed on all nodes before the next: install the new key (all nodes can
open it), use it (all nodes seal with it), remove the old keys. A node that does not answer stops the
rotation, because afterwards it could understand no other node. The old key then stays in every ring, and the
rotation can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent.common.errors import RainStormError, Unavailable
from agent.membership.client import MembershipClient

THREADS_MAX = 32


@dataclass(frozen=True, slots=True)
class Rotation:
    """The result of a rotation: the fingerprints of the current key and of the removed ones."""

    fingerprint: str
    removed: tuple[str, ...]
    nodes: tuple[str, ...]


def rotate(clients: Mapping[str, MembershipClient], key: str) -> Rotation:
    """Makes ``key`` (64 hexadecimal digits, never used before) the only gossip key of all nodes.

    Raises:
        Unavailable: a node did not answer; the message names the node and the key in use.
    """
    old = fingerprints(clients)
    installed = _everywhere(
        clients, lambda client: client.keys("install", key=key), "all nodes still use the old key"
    )
    (new,) = {mark for ring in installed.values() for mark in ring}.difference(old)
    _everywhere(
        clients,
        lambda client: client.keys("use", fingerprint=new),
        "the old key stays valid on all nodes; both keys open datagrams",
    )
    removed = tuple(mark for mark in old if mark != new)
    for mark in removed:
        _everywhere(
            clients,
            lambda client, mark=mark: client.keys("remove", fingerprint=mark),  # type: ignore[misc]
            f"the new key {new} is in use, but the old one is still accepted",
        )
    return Rotation(new, removed, tuple(clients))


def fingerprints(clients: Mapping[str, MembershipClient]) -> tuple[str, ...]:
    """Returns the fingerprints of all keys that any node has.

    Raises:
        Unavailable: a node did not answer.
    """
    rings = _everywhere(
        clients, lambda client: client.keys("list"), "nothing has changed: the old key stays in use"
    )
    return tuple(dict.fromkeys(mark for ring in rings.values() for mark in ring))


def rings_of(clients: Mapping[str, MembershipClient]) -> dict[str, list[str] | RainStormError]:
    """Returns the fingerprints in each node's ring, or the error of a node that did not answer."""
    return _ask(clients, lambda client: client.keys("list"))


def _everywhere(
    clients: Mapping[str, MembershipClient], ask: Callable[[MembershipClient], list[str]], outcome: str
) -> dict[str, list[str]]:
    answers = _ask(clients, ask)
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, RainStormError)}
    if failed:
        names = ", ".join(failed)
        reasons = "; ".join(f"{name}: {error.message}" for name, error in failed.items())
        raise Unavailable(
            f"the rotation needs all nodes, but {names} failed ({reasons}); {outcome}",
            hint="bring the node back, or remove it from the inventory; then: fab keys.rotate",
            details={"nodes": list(failed)},
        )
    return {name: answer for name, answer in answers.items() if not isinstance(answer, RainStormError)}


def _ask(
    clients: Mapping[str, MembershipClient], ask: Callable[[MembershipClient], list[str]]
) -> dict[str, list[str] | RainStormError]:
    def attempt(client: MembershipClient) -> list[str] | RainStormError:
        try:
            return ask(client)
        except RainStormError as error:
            return error

    with ThreadPoolExecutor(min(len(clients), THREADS_MAX), thread_name_prefix="keys") as pool:
        return dict(zip(clients, pool.map(attempt, clients.values()), strict=True))
