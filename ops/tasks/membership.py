"""Query the members of the running cluster, and change how it detects failures and its voters."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from collections.abc import Iterable
from typing import Any

from invoke.context import Context

from agent.common.errors import RainStormError, UsageError
from agent.membership.client import MembershipClient, MembersReply, SettingsReport
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.cluster.status import SERVICES
from ops.output import render
from ops.output.errors import command

INVENTORY = {"inventory": "inventory file of the cluster"}
JSON = {"json": "print one JSON object", **INVENTORY}
DRY = {"dry_run": "only show what would be done"}
VM = {"vm": "the node: 3, vm3 or vm03"}
SEEN_BY = {"vm": "the node to ask (default: any node that answers)"}
EVENTS_WAIT_S = 30.0
_find = inventory.find


@command(
    help={**JSON, **SEEN_BY, "watch": "keep printing each change (with --json: one object per line)"},
)
def members(
    context: Context, vm: str = "", json: bool = False, watch: bool = False, inventory: str = ""
) -> None:
    """cluster: show the members with state, services and reachability, as one node sees them"""
    with connected(_find(inventory)) as connections:
        client = _client(connections, vm)
        last = client.events(0, 0.0).last if watch else 0
        found = client.members(probe=True)
        if json and not watch:
            render.print_json(**_plain(found))
            return
        if not json:
            _print_members(found)
        if watch:
            _follow(client, last, json)


@command(help={**JSON, **SEEN_BY})
def list_mem(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """cluster: show the membership list of one node"""
    with connected(_find(inventory)) as connections:
        found = _client(connections, vm).members()
    columns = ("name", "address", "port", "node_id", "state", "incarnation")
    _print_rows(columns, _rows(found.members), json, "members")


@command(help={**JSON, **VM})
def list_self(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """cluster: show what a node reports about itself"""
    with connected(_find(inventory)) as connections:
        found = _client(connections, vm).members()
    mine = _rows(each for each in found.members if each.name == found.observer)
    _print_rows(
        ("name", "address", "port", "node_id", "ring_id", "state", "incarnation"), mine, json, "members"
    )


@command(help={**JSON, **SEEN_BY})
def list_mem_ids(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """cluster: list the members sorted by their id on the hash ring"""
    with connected(_find(inventory)) as connections:
        found = _client(connections, vm).members().members
    ordered = _rows(sorted(found, key=lambda each: each.ring_id))
    _print_rows(("ring_id", "name", "address", "state"), ordered, json, "members")


@command(help={**JSON, **SEEN_BY})
def display_suspects(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """cluster: show which members are suspected, and by which nodes"""
    with connected(_find(inventory)) as connections:
        found = _client(connections, vm).members().members
    suspects = _rows(each for each in found if each.state == "suspect")
    if not suspects and not json:
        render.say("no member is suspected")
        return
    _print_rows(("name", "address", "incarnation", "last_heard_s", "reporters"), suspects, json, "suspects")


@command(help={**JSON, **SEEN_BY})
def display_protocol(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """cluster: show how failures are detected, for example <swim, suspect>"""
    with connected(_find(inventory)) as connections:
        found = _client(connections, vm).members().settings
    if json:
        render.print_json(**dataclasses.asdict(found))
    else:
        print(_protocol(found))


@command(
    help={
        **JSON,
        "detector": "swim or heartbeat (default: unchanged)",
        "suspicion": "on or off (default: unchanged)",
        **DRY,
    }
)
def switch(
    context: Context,
    detector: str = "",
    suspicion: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """cluster: change how all running nodes detect failures"""
    if not detector and not suspicion:
        raise UsageError(
            "neither --detector nor --suspicion was given",
            hint="fab switch --detector heartbeat --suspicion off",
        )
    if suspicion not in ("", "on", "off"):
        raise UsageError(
            f"--suspicion must be on or off, not {suspicion!r}", hint="fab switch --suspicion on"
        )
    wanted = {"on": True, "off": False}.get(suspicion)
    with connected(_find(inventory)) as connections:
        client = connections.membership()
        if dry_run:
            now = client.members().settings
            asked = dataclasses.replace(
                now,
                detector=detector or now.detector,
                suspicion=now.suspicion if wanted is None else wanted,
            )
            render.say_dry(f"switch from {_protocol(now)} to {_protocol(asked)}", json=json)
            return
        found = client.switch(detector or None, wanted)
    if json:
        render.print_json(**dataclasses.asdict(found))
    else:
        print(f"{_protocol(found)} since settings version {found.version}")


@command(help={**JSON, "node": "the node to explain: 3, vm3 or vm03"})
def why(context: Context, node: str, json: bool = False, inventory: str = "") -> None:
    """cluster: show which nodes accused a node and when, as all nodes remember it"""
    with connected(_find(inventory)) as connections:
        name = connections.inventory.node(node).name
        found, silent = [], []
        for observer in connections.inventory.names():
            try:
                found.append(connections.membership(observer).why(name))
            except RainStormError as error:
                silent.append(f"{observer}: [{error.code}] {error.message}")
    if json:
        keys = ("observer", "state", "last_heard_s", "reporters", "history")
        observers = [{key: each[key] for key in keys} for each in _rows(found)]
        render.print_json(name=name, observers=observers)
    else:
        rows = sorted(
            (entry.wall_at, each.observer, entry.what, entry.by, entry.incarnation)
            for each in found
            for entry in each.history
        )
        render.print_table(
            ("when", "seen by", "what", "said by", "incarnation"),
            [(_clock(at), *rest) for at, *rest in rows],
            title=f"events about {name}",
        )
        columns = ("observer", "state", "last_heard_s", "reporters")
        _print_rows(columns, _rows(found), False, "observers")
    for line in silent:
        render.say(line)


@command(help={**JSON, **VM, **DRY})
def leave(context: Context, vm: str, dry_run: bool = False, json: bool = False, inventory: str = "") -> None:
    """cluster: make a node leave; its agents keep running"""
    with connected(_find(inventory)) as connections:
        node = connections.inventory.node(vm).name
        if dry_run:
            render.say_dry(f"make {node} leave", json=json)
            return
        connections.membership(node).leave()
    if json:
        render.print_json(node=node, left=True)
    else:
        print(f"{node} has left")
    render.say(f"make it join again: fab join --vm {vm}")


@command(help={**JSON, **VM})
def join(context: Context, vm: str, json: bool = False, inventory: str = "") -> None:
    """cluster: make a node that has left join again"""
    with connected(_find(inventory)) as connections:
        node = connections.inventory.node(vm).name
        connections.membership(node).join()
    if json:
        render.print_json(node=node, left=False)
    else:
        print(f"{node} is joining")


@command(
    help={
        **JSON,
        "replace": "the voter to replace: 3, vm3 or vm03",
        "by": "the node that replaces it",
        "finish": "finish a replacement that was interrupted",
        **DRY,
    }
)
def voters(
    context: Context,
    replace: str = "",
    by: str = "",
    finish: bool = False,
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """cluster: show the voters of the view; replace one of them"""
    if bool(replace) != bool(by):
        raise UsageError(
            "--replace and --by must be given together", hint="fab voters --replace vm2 --by vm6"
        )
    with connected(_find(inventory)) as connections:
        node, client = connections.inventory.node, connections.membership()
        if (replace or finish) and dry_run:
            what = f"replace {node(replace).name} by {node(by).name}" if replace else "finish the replacement"
            now = " and ".join(", ".join(group) for group in client.members().voters)
            render.say_dry(f"{what}; the voters are {now}", json=json)
            return
        if replace or finish:
            old, new = (node(replace).name, node(by).name) if replace else ("", "")
            changed = client.replace_voter(old, new)
            found = (changed.voters,) if changed.voters else client.members().voters
        else:
            found = client.members().voters
    if json:
        render.print_json(voters=found[-1], before=found[0] if len(found) > 1 else None)
        return
    print(f"voters: {', '.join(found[-1])}")
    if len(found) > 1:
        render.say(
            f"together with {', '.join(found[0])}, because a replacement is unfinished: fab voters --finish"
        )


@command(
    help={
        **JSON,
        "percent": "share of the incoming datagrams to drop, 0 to 100",
        "vm": "only on this node (default: all)",
        "seed": "seed of the random choice",
        "dry_run": "only show what would be done",
    }
)
def drop(
    context: Context,
    percent: float,
    vm: str = "",
    seed: int = 0,
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: drop a share of the datagrams between membership agents"""
    try:
        share = float(percent)
    except ValueError:
        raise UsageError(f"{percent!r} is not a number", hint="fab drop --percent 5") from None
    with connected(_find(inventory)) as connections:
        names = [connections.inventory.node(vm).name] if vm else connections.inventory.names()
        if dry_run:
            render.say_dry(f"make {', '.join(names)} drop {share:g} % of their datagrams", json=json)
            return
        for name in names:
            connections.membership(name).drop(share, seed)
            if not json:
                print(f"{name} drops {share:g} % of its incoming datagrams")
    if json:
        render.print_json(nodes=names, percent=share)


def _client(connections: Connections, vm: str) -> MembershipClient:
    return connections.membership(connections.inventory.node(vm).name if vm else "")


def _protocol(settings: SettingsReport) -> str:
    return f"<{settings.detector}, {'suspect' if settings.suspicion else 'nosuspect'}>"


def _rows(found: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(each) for each in found]


def _plain(found: MembersReply) -> dict[str, Any]:
    fields = dataclasses.asdict(found)
    return {**fields, "self": fields.pop("observer"), "view": found.view.as_fields()}


def _print_rows(columns: tuple[str, ...], rows: list[dict[str, Any]], json: bool, key: str) -> None:
    if json:
        render.print_json(**{key: [{column: row.get(column) for column in columns} for row in rows]})
        return
    cells = [[_text(column, row.get(column)) for column in columns] for row in rows]
    render.print_table([column.replace("_", " ") for column in columns], cells)


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _text(column: str, value: Any) -> Any:
    return str(value) if column == "port" else _cell(value)


def _print_members(found: MembersReply) -> None:
    services = [
        name
        for name in found.members[0].services
        if name in SERVICES or any(each.services[name] == "up" for each in found.members)
    ]
    columns = ("name", "address", "state", "incarnation", *services, "udp", "tcp", "last heard s", "node id")
    rows = [
        [
            each.name,
            each.address,
            each.state,
            each.incarnation,
            *(each.services[name] for name in services),
            each.udp,
            each.tcp,
            each.last_heard_s,
            each.node_id,
        ]
        for each in found.members
    ]
    render.print_table(columns, rows)
    majority = "yes" if found.majority else "no"
    percent = found.datagrams.drop_percent
    dropping = f", drops {percent:g} % of its datagrams" if percent else ""
    render.say(
        f"as seen by {found.observer}: view {found.view.version}, majority {majority}, "
        f"{_protocol(found.settings)}, local health {found.health} of 7 (0 is best){dropping}"
    )


def _follow(client: MembershipClient, last: int, json: bool) -> None:
    while True:
        found = client.events(last, EVENTS_WAIT_S)
        if found.missed:
            render.say("some events were missed, because they came faster than they could be printed")
        last = found.last
        for event in _rows(found.events):
            if json:
                print(jsonlib.dumps(event, ensure_ascii=False), flush=True)
                continue
            rest = {key: value for key, value in event.items() if key not in ("sequence", "wall_at", "kind")}
            said = " ".join(f"{key}={_cell(value)}" for key, value in rest.items() if value not in ("", None))
            print(f"{_clock(event['wall_at'])} {event['kind']} {said}", flush=True)


def _clock(wall_at: float) -> str:
    return f"{render.utc(wall_at)[:-1]}.{int(wall_at % 1 * 1000):03d}Z"
