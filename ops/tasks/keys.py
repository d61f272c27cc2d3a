"""The gossip keys of the running cluster: replace the key on all nodes, list the keys of each."""

from __future__ import annotations

import secrets
from typing import Any

from invoke.context import Context

from agent.common.errors import RainStormError
from ops.cluster import inventory, keyrotation
from ops.cluster.connections import connected
from ops.output import render
from ops.output.errors import command

JSON = {"json": "print one JSON object", "inventory": "inventory file of the cluster"}
_find = inventory.find


@command(help={**JSON, "dry_run": "check that all nodes answer, and show the key to replace"}, name="rotate")
def rotate_keys(context: Context, dry_run: bool = False, json: bool = False, inventory: str = "") -> None:
    """keys: replace the gossip key on all nodes without losing a datagram"""
    with connected(_find(inventory)) as connections:
        clients = {name: connections.membership(name) for name in connections.inventory.names()}
        if dry_run:
            old = ", ".join(keyrotation.fingerprints(clients))
            render.say_dry(f"replace key {old} on {len(clients)} nodes", json=json)
            return
        key = secrets.token_hex(32)
        done = keyrotation.rotate(clients, key)
        path = connections.inventory.gossip_key_path
    if path.exists():  # nodes that are added later are configured with this key
        from agent.wire.authority import write_private

        write_private(path, f"{key}\n".encode())
    if json:
        render.print_json(fingerprint=done.fingerprint, removed=list(done.removed), nodes=list(done.nodes))
    else:
        print(f"key {done.fingerprint} in use on {len(done.nodes)} nodes; removed: {', '.join(done.removed)}")


@command(help=JSON, name="list")
def list_keys(context: Context, json: bool = False, inventory: str = "") -> None:
    """keys: list the fingerprints of each node's gossip keys, the current one first"""
    with connected(_find(inventory)) as connections:
        clients = {name: connections.membership(name) for name in connections.inventory.names()}
        rings = keyrotation.rings_of(clients)
    rows: list[dict[str, Any]] = [
        {"name": name, "in_use": None, "others": None}
        if isinstance(ring, RainStormError)
        else {"name": name, "in_use": ring[0], "others": ring[1:]}
        for name, ring in rings.items()
    ]
    if json:
        render.print_json(keys=rows)
        return
    cells = [
        [row["name"], row["in_use"], None if row["others"] is None else ", ".join(row["others"])]
        for row in rows
    ]
    render.print_table(("name", "in use", "others"), cells)
