"""Replaces the key of the gossip datagrams on all nodes of a running cluster without losing a datagram.

Three steps, each everywhere before the next: install the new key (all can open it), use it (all seal with
it), remove the old ones. A node that does not answer stops the rotation: it would understand nobody
afterwards. The old key then stays, in every ring, and the rotation can be tried again.
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
    """What a rotation did: the fingerprints of the key in use and of those that were removed."""

    fingerprint: str
    removed: tuple[str, ...]
    nodes: tuple[str, ...]


def rotate(clients: Mapping[str, MembershipClient], key: str) -> Rotation:
    """Makes ``key`` (64 hexadecimal digits, never used before) the only gossip key of all nodes.

    Raises:
        Unavailable: a node did not answer; the message names it and says which key is in use.
    """
    old = fingerprints(clients)
    installed = _everywhere(
        clients, lambda client: client.keys("install", key=key), "the old key stays in use everywhere"
    )
    (new,) = {mark for ring in installed.values() for mark in ring}.difference(old)
    _everywhere(
        clients,
        lambda client: client.keys("use", fingerprint=new),
        "the old key stays valid everywhere; both open",
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
    """Returns those of all keys that any node has.

    Raises:
        Unavailable: a node did not answer.
    """
    rings = _everywhere(clients, lambda client: client.keys("list"), "nothing has changed: the old key stays")
    return tuple(dict.fromkeys(mark for ring in rings.values() for mark in ring))


def rings_of(clients: Mapping[str, MembershipClient]) -> dict[str, list[str] | RainStormError]:
    """Returns the fingerprints in each node's ring, or why a node did not tell."""
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
            f"no rotation without {names} ({reasons}); {outcome}",
            hint="bring the node back, or take it out of the inventory; then: fab keys.rotate",
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
