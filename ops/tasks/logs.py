"""Search and follow the logs of all nodes."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json as jsonlib
import sys
from collections.abc import Sequence
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from agent.common.errors import Partial, RainStormError, UsageError
from agent.logs.messages import StartSearch
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.logs.follow import Following, Lines, Trouble
from ops.logs.grep import ClusterSearch, NodeResult, prefixed
from ops.logs.merge import Merge
from ops.logs.timespec import parse_instant
from ops.output import render
from ops.output.errors import command

NOTHING_FOUND = 1
TIMEOUT_S = 60.0
TAIL_LINES = 10
LOGGED = ("membership", "hydfs", "rainstorm", "logs", "tasks")
# The most that is kept in memory to be sorted, or printed as one object.
HELD_BYTES_MAX = 256 * 1024 * 1024
_find = inventory.find


@command(
    positional=("pattern",),
    short_flags=False,
    help={
        "pattern": "a basic regular expression, as for grep (one that begins with a dash: --pattern=-x)",
        "i": "ignore case",
        "v": "print the lines that do not match",
        "E": "the pattern is an extended regular expression",
        "F": "fixed string",
        "c": "only count the matches of each file",
        "n": "line numbers",
        "A": "also print this many lines after each match",
        "B": "also print this many lines before each match",
        "C": "also print this many lines before and after each match",
        "m": "stop searching a file after this many matches",
        "vm": "only these nodes: 3, or 1,2,5",
        "files": "only files with this name: 'tasks.log*', or several with commas",
        "system": "also these system logs, if the node allows it: paths or units, with commas",
        "since": "lines from this time on: 10m (ago), 10:24, 2026-11-20T10:24:05 (UTC)",
        "until": "lines before this time",
        "merge": "print the lines of all nodes sorted by time",
        "collected": "search the logs collected in HyDFS instead of the nodes' disks",
        "timeout": "stop each node's search after this many seconds (default 60)",
        "limit": "stop each node's search after this many bytes of output",
        "json": "print one JSON object",
        "inventory": "inventory file of the cluster",
    },
)
def grep(
    context: Context,
    pattern: str,
    i: bool = False,
    v: bool = False,
    E: bool = False,
    F: bool = False,
    c: bool = False,
    n: bool = False,
    A: str = "",
    B: str = "",
    C: str = "",
    m: str = "",
    vm: str = "",
    files: str = "",
    system: str = "",
    since: str = "",
    until: str = "",
    merge: bool = False,
    collected: bool = False,
    timeout: float = TIMEOUT_S,
    limit: int = 0,
    json: bool = False,
    inventory: str = "",
) -> None:
    """logs: search the logs of all nodes with grep"""
    if merge and c:
        raise UsageError("counts have no times, so they cannot be merged", hint="omit --merge or -c")
    query = StartSearch(
        search="-",
        pattern=pattern.encode("utf-8", "surrogateescape"),
        ignore_case=i,
        invert=v,
        extended=E,
        fixed=F,
        count=c,
        line_numbers=n,
        after=_number("-A", A),
        before=_number("-B", B),
        context=_number("-C", C),
        max_count=_number("-m", m),
        files=tuple(_words(files)),
        system=tuple(_words(system)),
        since=parse_instant(since),
        until=parse_instant(until),
        time_limit_s=timeout,
        output_bytes_max=limit,
    )
    found = _find(inventory)
    nodes = [found.node(each).name for each in _words(vm)] or found.names()
    with connected(found) as connections:
        search = ClusterSearch(connections, nodes, query, collected=collected)
        if json:
            _print_json(search, query.pattern)
        elif merge:
            _print_merged(search)
        else:
            for piece in search:
                sys.stdout.buffer.write(prefixed(piece))
                sys.stdout.buffer.flush()
    _end(search, json)


@command(
    help={
        "follow": "keep printing each new line, until Ctrl-C",
        "tail": "number of last lines of each file (default 10)",
        "since": "all lines from this time on, instead: 10m (ago), 10:24, 2026-11-20T10:24:05 (UTC)",
        "vm": "only these nodes: 3, or 1,2,5",
        "service": "only the log of membership, hydfs, rainstorm, logs or tasks",
        "files": "only files with this name: 'tasks.log*', or several with commas",
        "list": "only list the log files and how much of them was collected",
        "json": "print one JSON object per line (with --list: one in all)",
        "inventory": "inventory file of the cluster",
    },
)
def logs(
    context: Context,
    follow: bool = False,
    tail: int = TAIL_LINES,
    since: str = "",
    vm: str = "",
    service: str = "",
    files: str = "",
    list: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """logs: print the last lines of all logs, and with --follow each new one"""
    if service and service not in LOGGED:
        raise UsageError(f"there is no service {service!r}", hint=f"use one of {', '.join(LOGGED)}")
    patterns = [*_words(files), *([f"{service}.log*", f"rainstorm-{service}"] if service else [])]
    found = _find(inventory)
    nodes = [found.node(each).name for each in _words(vm)] or found.names()
    with connected(found) as connections:
        if list:
            _list(connections, nodes, json)
            return
        following = Following(
            connections, nodes, files=patterns, tail=tail, since=parse_instant(since), follow=follow
        )
        with contextlib.suppress(KeyboardInterrupt):
            for item in following:
                _print_item(item, json)
    if following.refused is not None:
        raise following.refused
    if following.missing:
        words = "; ".join(f"{node}: {error.message}" for node, error in following.missing.items())
        raise Partial(words, hint="their collected logs can be searched: fab grep --collected PATTERN")


def _print_item(item: Lines | Trouble, json: bool) -> None:
    if isinstance(item, Trouble):
        words = f"no answer ({item.error.message}); trying again" if item.error else "answers again"
        render.say(f"{item.node}: {words}")
    elif json:
        for line in item.data.decode("utf-8", "replace").splitlines():
            text = jsonlib.dumps({"node": item.node, "file": item.file, "line": line}, ensure_ascii=False)
            print(text, flush=True)
    else:
        prefix = f"{item.node}:{item.file}:".encode()
        lines = item.data.removesuffix(b"\n").replace(b"\n", b"\n" + prefix)
        sys.stdout.buffer.write(prefix + lines + b"\n")
        sys.stdout.buffer.flush()


def _list(connections: Connections, nodes: Sequence[str], json: bool) -> None:
    rows: builtins.list[tuple[Any, ...]] = []
    collections, missing = {}, {}
    for node in nodes:
        try:
            found = connections.logs(node).list()
            collections[node] = connections.logs(node).collection()
        except RainStormError as error:
            missing[node] = error.message
            continue
        rows += [(node, each.name, each.bytes, render.utc(each.modified_at)) for each in found.files]
        rows += [(node, f"{unit.removesuffix('.service')}.journal", None, None) for unit in found.units]
    if json:
        files = [dict(zip(("node", "name", "bytes", "written"), row, strict=True)) for row in rows]
        shown = {node: dataclasses.asdict(state) for node, state in collections.items()}
        render.print_json(files=files, collections=shown, missing=missing)
    else:
        render.print_table(("node", "log", "bytes", "last written"), rows)
        for node, state in collections.items():
            if state.trouble or state.lost_bytes:
                render.say(f"{node}: collection: {state.trouble}, {state.lost_bytes:,} bytes lost")
    if missing:
        raise Partial("; ".join(f"{node}: {words}" for node, words in missing.items()), hint="fab status")


def _print_merged(search: ClusterSearch) -> None:
    merge = Merge(HELD_BYTES_MAX)
    for piece in search:
        merge.add(piece.node, piece.data)
    for line in merge.lines():
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    if merge.dropped:
        raise Partial(
            f"the output is incomplete: more than {render.size(HELD_BYTES_MAX)} cannot be sorted here",
            hint="narrow the search: --since, --until, --vm",
        )


def _print_json(search: ClusterSearch, pattern: bytes) -> None:
    output: dict[str, list[bytes]] = {result.node: [] for result in search.results}
    held = 0
    for piece in search:
        held += len(piece.data)
        if held <= HELD_BYTES_MAX:
            output[piece.node].append(piece.data)
    render.print_json(
        pattern=pattern,
        nodes=[
            {
                "node": result.node,
                "state": result.state,
                "complete": result.complete,
                "matches": result.matches,
                "lines": result.lines,
                "files": result.files,
                "searched_bytes": result.searched_bytes,
                "seconds": result.seconds,
                "problems": result.problems,
                "output": b"".join(output[result.node]).decode("utf-8", "replace").splitlines(),
            }
            for result in search.results
        ],
        matches=sum(result.matches for result in search.results),
        cut=held > HELD_BYTES_MAX,
    )


def _end(search: ClusterSearch, json: bool) -> None:
    """Prints the table of the nodes; exits with grep's status, or with 4 if something is missing."""
    if search.refused is not None:
        raise search.refused
    results = search.results
    matches = sum(result.matches for result in results)
    if not json:
        with contextlib.redirect_stdout(sys.stderr):
            _print_table(results)
    missing = [result for result in results if not result.complete]
    if missing:
        raise Partial(
            "; ".join(f"{each.node}: {'; '.join([each.state, *each.problems])}" for each in missing)[:2000],
            hint="fab status",
        )
    if not any(result.files for result in results):
        render.say("no log was searched; list the logs with: fab logs --list")
    if not matches:
        raise Exit(code=NOTHING_FOUND)


def _print_table(results: Sequence[NodeResult]) -> None:
    rows: list[list[Any]] = [
        [r.node, r.matches, r.lines, r.files, render.size(r.searched_bytes), f"{r.seconds:.2f} s", _state(r)]
        for r in results
    ]
    rows.append(
        [
            "total",
            sum(r.matches for r in results),
            sum(r.lines for r in results),
            sum(r.files for r in results),
            render.size(sum(r.searched_bytes for r in results)),
            f"{max(r.seconds for r in results):.2f} s",
            f"{sum(r.complete for r in results)} of {len(results)} complete",
        ]
    )
    render.print_table(("node", "matches", "lines", "files", "searched", "time", "state"), rows)


def _state(result: NodeResult) -> str:
    return "; ".join([result.state, *result.problems]) if not result.complete else result.state


def _number(option: str, text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(f"{option} must be a number, not {text!r}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]
