"""Files in HyDFS: create, put, get, append, ls, store, list, delete."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from invoke.context import Context

from agent.common.errors import AlreadyExists, NotFound, UsageError
from agent.common.shell import clock
from agent.hydfs.client import READ_PIECE_BYTES, HydfsClient
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.output import render
from ops.output.errors import command

INVENTORY = {"inventory": "inventory file of the cluster"}
JSON = {"json": "print one JSON object"}
# One append is one record; a larger local file is appended as several, each of them atomic.
APPEND_BYTES_MAX = 4 * 1024 * 1024
APPEND_TIMEOUT_S = 30.0
# Files of the stream engine, and the logs that the logs agents collect.
OWN_PREFIXES = (".rainstorm/", ".logs/")
_find = inventory.find


@command(positional=("name",), help={"name": "its name in HyDFS", **JSON, **INVENTORY})
def create(context: Context, name: str, json: bool = False, inventory: str = "") -> None:
    """files: create an empty file"""
    with connected(_find(inventory)) as connections:
        stat = connections.hydfs().create(name)
    if json:
        render.print_json(file=stat)
    else:
        print(f"created {name}: empty")


@command(
    positional=("local", "name"),
    help={"local": "local file, or - for stdin", "name": "its name in HyDFS", **JSON, **INVENTORY},
)
def put(context: Context, local: str, name: str, json: bool = False, inventory: str = "") -> None:
    """files: store a local file under a new name"""
    with _reading(local) as source, connected(_find(inventory)) as connections:
        begun = clock.monotonic()
        stat = connections.hydfs().put(name, source)
        took_s = max(clock.monotonic() - begun, 1e-6)
    if json:
        render.print_json(file=stat, seconds=took_s)
        return
    print(
        f"stored {name}: {render.size(stat.length)} in {len(stat.blocks)} blocks, "
        f"{took_s:.2f} s ({render.size(stat.length / took_s)}/s)"
    )


@command(
    positional=("name", "local"),
    help={
        "name": "name in HyDFS",
        "local": "local file, or - for stdout",
        "force": "overwrite it",
        "offset": "start at this byte",
        "length": "only this many bytes (0: to the end)",
        **JSON,
        **INVENTORY,
    },
)
def get(
    context: Context,
    name: str,
    local: str,
    force: bool = False,
    offset: int = 0,
    length: int = 0,
    json: bool = False,
    inventory: str = "",
) -> None:
    """files: copy a file to a local file"""
    if local != "-" and os.path.isdir(local):
        raise UsageError(f"{local} is a folder", hint="give the name of a local file")
    if local != "-" and os.path.exists(local) and not force:
        raise AlreadyExists(f"the local file {local} exists", hint="choose another name, or add --force")
    if offset < 0 or length < 0:
        raise UsageError("--offset and --length count bytes from the start", hint=f"fab ls {name}")
    with connected(_find(inventory)) as connections:
        client = connections.hydfs()
        with contextlib.nullcontext(sys.stdout.buffer) if local == "-" else _writing(Path(local)) as sink:
            fetched = (
                client.get(name, sink)
                if not offset and not length
                else _fetch(client, name, offset, length, sink)
            )
    if json and local != "-":
        render.print_json(name=name, local=local, length_bytes=fetched)
    elif local != "-":
        print(f"fetched {name}: {render.size(fetched)} into {local}")


@command(
    positional=("local", "name"),
    help={"local": "local file, or - for stdin", "name": "name in HyDFS", **JSON, **INVENTORY},
)
def append(context: Context, local: str, name: str, json: bool = False, inventory: str = "") -> None:
    """files: append the bytes of a local file to a file"""
    with _reading(local) as source, connected(_find(inventory)) as connections:
        appended, copies = _append(connections.hydfs(), name, source)
    if json:
        render.print_json(name=name, appended_bytes=appended, copies=copies)
        return
    print(f"appended {render.size(appended)} to {name}" + (f" on {copies} replicas" if copies else ""))


@command(positional=("name",), help={"name": "name in HyDFS", **JSON, **INVENTORY})
def ls(context: Context, name: str, json: bool = False, inventory: str = "") -> None:
    """files: show the blocks of a file, with their nodes and ring ids"""
    with connected(_find(inventory)) as connections:
        stat = connections.hydfs().stat(name)
        rings = _ring_ids(connections)
    if json:
        render.print_json(file=stat, ring_ids=rings)
        return
    print(f"{stat.name}   {stat.length:,} bytes   file id {stat.file_id}")
    rows = [
        [
            block.number,
            block.offset,
            block.length,
            block.state,
            ", ".join(f"{node} ({rings.get(node, '?')})" for node in block.replicas),
        ]
        for block in stat.blocks
    ]
    render.print_table(("block", "offset", "bytes", "state", "replicas (ring ids)"), rows)


@command(help={"vm": "the node: 3, vm3 or vm03", **JSON, **INVENTORY})
def store(context: Context, vm: str, json: bool = False, inventory: str = "") -> None:
    """files: list the blocks on one node"""
    found = _find(inventory)
    node = found.node(vm)
    with connected(found) as connections:
        blocks = connections.hydfs().store(node.name)
        ring = _ring_ids(connections).get(node.name, "?")
    if json:
        render.print_json(node=node.name, ring_id=ring, blocks=blocks)
        return
    print(f"{node.name} (ring id {ring}): {len(blocks)} blocks")
    if blocks:
        columns = [field.name for field in fields(blocks[0])]
        render.print_table(columns, [[getattr(block, column) for column in columns] for block in blocks])


@command(
    name="list",
    help={
        "prefix": "only names that begin with this",
        "all": "include the files of the engine and the collected logs",
        **JSON,
        **INVENTORY,
    },
)
def list_(
    context: Context, prefix: str = "", all: bool = False, json: bool = False, inventory: str = ""
) -> None:
    """files: list all files with their sizes"""
    with connected(_find(inventory)) as connections:
        pages = list(connections.hydfs().pages(prefix))
    found = [stat for page in pages for stat in page.files]
    damaged = [name for page in pages for name in page.damaged]
    if not (all or prefix.startswith(".")):
        found = [each for each in found if not each.name.startswith(OWN_PREFIXES)]
        damaged = [name for name in damaged if not name.startswith(OWN_PREFIXES)]
    if json:
        render.print_json(files=found, damaged=damaged)
        return
    for name in damaged:
        render.say(f"damaged: the file table holds no valid entry for {name}; its bytes cannot be read")
    if not found:
        render.say("no files" + (f" whose name begins with {prefix!r}" if prefix else ""))
        return
    render.print_table(("name", "bytes", "blocks"), [[f.name, f.length, len(f.blocks)] for f in found])


@command(
    positional=("name",),
    help={
        "name": "name in HyDFS",
        "prefix": "delete every file whose name begins with NAME",
        "dry_run": "only show what would be deleted",
        **JSON,
        **INVENTORY,
    },
)
def delete(
    context: Context,
    name: str,
    prefix: bool = False,
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """files: delete a file permanently"""
    with connected(_find(inventory)) as connections:
        client = connections.hydfs()
        names = [each.name for each in client.list(name)] if prefix else [name]
        if dry_run and not prefix:
            client.stat(name)
        elif not dry_run:
            client.delete_prefix(name) if prefix else client.delete(name)
    if json:
        render.print_json(names=names, dry_run=dry_run)
        return
    for each in names:
        print(f"{'would delete' if dry_run else 'deleted'} {each}")
    if not names:
        render.say(f"there is no file whose name begins with {name!r}")


def _fetch(client: HydfsClient, name: str, offset: int, length: int, sink: BinaryIO) -> int:
    stat = client.stat(name)
    end = min(offset + length, stat.length) if length else stat.length
    fetched = 0
    while offset + fetched < end:
        size = min(end - offset - fetched, READ_PIECE_BYTES)
        piece = client.read(name, offset + fetched, size, file_id=stat.file_id)
        if not piece:
            raise NotFound(f"file {name!r} changed while it was read", hint="run the command again")
        sink.write(piece)
        fetched += len(piece)
    return fetched


def _append(client: HydfsClient, name: str, source: BinaryIO) -> tuple[int, int]:
    writer = f"fab-{uuid.uuid4().hex}"
    appended, copies, sequence = 0, 0, 0
    while data := source.read(APPEND_BYTES_MAX):
        sequence += 1
        result = client.append(name, data, writer=writer, sequence=sequence, timeout_s=APPEND_TIMEOUT_S)
        appended += result.length
        copies = result.copies
    if not sequence:
        client.stat(name)  # nothing to append, but a missing file is still an error
    return appended, copies


def _ring_ids(connections: Connections) -> dict[str, str]:
    return {member.name: member.ring_id for member in connections.membership().members().members}


@contextlib.contextmanager
def _reading(local: str) -> Iterator[BinaryIO]:
    if local == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(local, "rb")  # noqa: SIM115 - closed below, once the errors are known
    except FileNotFoundError:
        raise NotFound(f"there is no local file {local}", hint="check the path") from None
    except OSError as error:
        raise UsageError(
            f"the local file {local} cannot be read: {error.strerror}", hint="check it"
        ) from None
    with file:
        yield file


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(
            f"{path.parent} cannot be written: {error.strerror}", hint="choose another folder"
        ) from None
    try:
        os.chmod(name, 0o644)  # mkstemp creates private files
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
