"""The walls of the code: imports point down only, and cores do no input or output.

A module under ``agent/`` is a **core** unless ``SHELLS`` names it, with the reason. To add a shell, add a
line to that table; a module that stands there without needing to is an error too. The layers, top first::

    agent/__main__                  may import all of agent
    subsystem shells                service, client, journal, store, supervisor ...
    wire shells                     server, client, connection ... (never a subsystem)
    subsystem cores                 (never another subsystem)
    wire cores                      framing, codec, messages
    common                          cores and the shells that all share (clock, runner, logs)

Of another subsystem a shell may import the cores, the ``client`` and membership's ``attachment`` (by which a
service says that it lives), never its other shells. ``ops`` and ``experiments`` see only clients, the wire
and a few modules of ``common``.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import REPOSITORY

# Every module that may do input and output, and why it must. All others under agent/ are cores.
SHELLS = {
    "agent.__main__": "the process: arguments, signals, exit status",
    "agent.common.clock": "reads the clocks",
    "agent.common.logs": "writes log lines",
    "agent.common.runner": "the thread that drives a core",
    "agent.common.sdnotify": "datagrams to the service manager",
    "agent.wire.auth": "ssl contexts from files",
    "agent.wire.authority": "makes keys and writes them",
    "agent.wire.client": "sockets and their pool",
    "agent.wire.connection": "one socket",
    "agent.wire.register_store": "fsynced promises of a voter",
    "agent.wire.registers": "proposers that wait for the network",
    "agent.wire.voter": "a thread that asks the other voters, the log it opens",
    "agent.wire.server": "the threads that accept and answer",
    "agent.logs.client": "calls over the wire",
    "agent.logs.collected": "reads from HyDFS",
    "agent.logs.collection": "threads around the collector",
    "agent.logs.follower": "reads log files, holds requests",
    "agent.logs.journal": "runs journalctl",
    "agent.logs.search": "a thread and a grep for each search",
    "agent.logs.searches": "opens what a search goes through",
    "agent.logs.service": "the process's threads",
    "agent.logs.sources": "finds and opens log files",
    "agent.membership.antientropy": "a thread that waits for the tables of others",
    "agent.logs.spool": "records on disk",
    "agent.membership.attachment": "a thread that keeps a local connection open",
    "agent.membership.client": "calls over the wire",
    "agent.membership.eventlog": "followers wait in it",
    "agent.membership.requests": "handlers that wait for the core and for peers",
    "agent.membership.service": "the process's threads",
    "agent.membership.store": "identity and keys on disk",
    "agent.membership.transport": "the datagram socket",
    "agent.hydfs.blocks": "what store agents do for each other: waits for disk and peers",
    "agent.hydfs.client": "calls over the wire",
    "agent.hydfs.engine": "the lock and timer of the core",
    "agent.hydfs.files": "what a gateway knows of files: waits for peers and registers",
    "agent.hydfs.gateway": "requests of clients: waits for peers and registers",
    "agent.hydfs.incoming": "whole blocks on their way in",
    "agent.hydfs.journal": "writes and syncs the journal",
    "agent.hydfs.maintenance": "repair in the background",
    "agent.hydfs.newdisk": "a mark on the disk",
    "agent.hydfs.part": "a block file that is being received",
    "agent.hydfs.peers": "calls over the wire, a few threads for each peer",
    "agent.hydfs.puts": "whole files on their way in, a thread for each block",
    "agent.hydfs.sealing": "seals blocks: waits for peers and registers",
    "agent.hydfs.service": "the process's threads",
    "agent.hydfs.store": "block files on disk",
    "agent.hydfs.views": "follows the cluster view",
    "agent.rainstorm.channel": "one socket between two tasks",
    "agent.rainstorm.client": "calls over the wire",
    "agent.rainstorm.joblogs": "job logs in HyDFS: waits for appends",
    "agent.rainstorm.launcher": "the process that starts tasks under their own user",
    "agent.rainstorm.launcherlink": "the connection to the process that starts tasks",
    "agent.rainstorm.links": "a thread for each direction between leader and agents",
    "agent.rainstorm.dispatcher": "threads around the leader core",
    "agent.rainstorm.service": "the process's threads",
    "agent.rainstorm.source": "reads the source file at a rate",
    "agent.rainstorm.storage": "HyDFS with retries",
    "agent.rainstorm.submission": "reads the source's head, creates the destination",
    "agent.rainstorm.supervisor": "starts, watches and ends task processes",
    "agent.rainstorm.task": "the task's process",
    "agent.rainstorm.taskhost": "threads around the host core",
    "agent.rainstorm.tasklog": "a pipe, and the file it is emptied into",
    "agent.rainstorm.writers": "threads that append segments and publish output",
}

# What a core may not import: the operating system, time, chance, other threads.
BANNED_IN_CORES = frozenset(
    "asyncio _thread concurrent ctypes datetime fcntl ftplib glob http logging mmap multiprocessing os"
    " pathlib queue random sched secrets select selectors shutil signal socket socketserver ssl subprocess"
    " tempfile threading time urllib uuid".split()
)
BANNED_EVERYWHERE = frozenset("asyncio marshal pickle shelve".split())
BANNED_CALLS_IN_CORES = frozenset("breakpoint exec eval hash input open print".split())
# Libraries that compute and do nothing else unless asked to.
LIBRARIES_IN_CORES = frozenset("cryptography mmh3 msgpack numpy polars pyarrow yaml".split())
# Single exceptions: (core, module it may import), and why.
EXEMPT = {
    ("agent.common.config", "pathlib"): "reads the one configuration file before anything runs",
}

COMMON_FOR_OPS = frozenset(f"agent.common.{name}" for name in "clock config deadline errors ids".split())
# The reference program must share no code with what it judges.
INDEPENDENT = frozenset({"ops.reference"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, where, and whether only the type checker sees it."""

    module: str
    line: int
    typing_only: bool


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed module and what it imports."""

    name: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def is_core(self) -> bool:
        """Tells whether the module must do no input or output."""
        return self.name.startswith("agent.") and not is_shell(self.name)


def is_shell(name: str) -> bool:
    """Tells whether ``name`` or a package around it stands in ``SHELLS``."""
    return any(name == shell or name.startswith(f"{shell}.") for shell in SHELLS)


def parse(name: str, source: str, known: frozenset[str], is_package: bool = False) -> Module:
    """Returns the module called ``name``; ``known`` tells modules from names inside them."""
    tree = ast.parse(source)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                targets.append(inner if inner in known or inner in SHELLS else base)
        line = getattr(node, "lineno", 0)
        found += [Import(target, line, id(node) in guarded) for target in targets if target]
    return Module(name, tree, tuple(dict.fromkeys(found)))


def layer(name: str) -> int:
    """Returns the height of a module of ``agent``; an import may not point up."""
    parts = name.split(".")
    if parts == ["agent"] or parts[1] == "common":
        return 0
    if parts[1] == "__main__":
        return 5
    if parts[1] == "wire":
        return 3 if is_shell(name) else 1
    return 4 if is_shell(name) else 2


def subsystem(name: str) -> str:
    """Returns the subsystem that a module of ``agent`` belongs to, or '' for what they share."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] not in ("common", "wire", "__main__") else ""


def violations(module: Module) -> Iterator[str]:
    """Yields a line for each rule that ``module`` breaks."""
    for entry in module.imports:
        where = f"{module.name}:{entry.line}: imports {entry.module}"
        top = entry.module.split(".")[0]
        if top in BANNED_EVERYWHERE:
            yield f"{where}, which is banned everywhere"
        if top in ("tests", "experiments", "examples") and top != module.name.split(".")[0]:
            yield f"{where}: nobody imports {top}"
        if module.name in INDEPENDENT and top not in sys.stdlib_module_names | {"yaml"}:
            yield f"{where}: it must stay independent of what it judges"
        if module.name.split(".")[0] in ("ops", "experiments", "examples", "fabfile"):
            if top == "agent" and not visible_to_ops(entry.module):
                yield f"{where}: ops sees only clients, agent.wire and {', '.join(sorted(COMMON_FOR_OPS))}"
            continue
        if top == "ops":
            yield f"{where}: agent never imports ops"
        if top == "agent":
            yield from (f"{where}: {rule}" for rule in broken_walls(module.name, entry.module))
        elif module.is_core and (module.name, top) not in EXEMPT:
            yield from core_import_problems(module, entry, where)
    if module.is_core:
        yield from call_problems(module)


def visible_to_ops(target: str) -> bool:
    """Tells whether ``ops`` and ``experiments`` may import this module of ``agent``."""
    return (
        target in ("agent", "agent.wire", "agent.common")
        or target.startswith("agent.wire.")
        or target in COMMON_FOR_OPS
        or (target.endswith(".client") and target.count(".") == 2)
    )


def broken_walls(name: str, target: str) -> Iterator[str]:
    """Yields the rules that an import of one module of ``agent`` by another breaks."""
    if name == "agent.__main__":
        return
    if layer(target) > layer(name):
        yield "imports point down only"
    if is_shell(target) and not is_shell(name):
        yield "a core imports no shell"
    if target.endswith(".service"):
        yield "only agent/__main__ imports a service"
    if subsystem(target) and subsystem(target) != subsystem(name):
        if not subsystem(name):
            yield "what all share knows no subsystem"
        elif not is_shell(name):
            yield "the cores of two subsystems never meet"
        elif is_shell(target) and not target.endswith((".client", ".attachment")):
            yield "of another subsystem's shells only the client may be used"


def core_import_problems(module: Module, entry: Import, where: str) -> Iterator[str]:
    """Yields what is wrong with a core's import of something outside this project."""
    top = entry.module.split(".")[0]
    if top == "random":
        yield from random_problems(module, where)
    elif top in BANNED_IN_CORES:
        yield f"{where}: cores do no input or output (a shell needs a line in SHELLS)"
    elif top not in sys.stdlib_module_names and top not in LIBRARIES_IN_CORES:
        yield f"{where}: not among the libraries of cores"


def random_problems(module: Module, where: str) -> Iterator[str]:
    """Yields uses of ``random`` other than the name of the type ``random.Random``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            if node.attr != "Random":
                yield f"{where}: uses random.{node.attr} at line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"{where}: uses {alias.name}" for alias in node.names if alias.name != "Random")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("random.Random", "Random"):
            yield f"{where}: makes its own random source at line {node.lineno}; it must be given one"


def call_problems(module: Module) -> Iterator[str]:
    """Yields calls of built-in functions that a core may not make, and walks over sets."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in BANNED_CALLS_IN_CORES:
                yield f"{module.name}:{node.lineno}: calls {node.func.id}() in a core"
        elif isinstance(node, ast.For | ast.comprehension):
            over = node.iter
            made = isinstance(over, ast.Call) and ast.unparse(over.func) in ("set", "frozenset")
            if made or isinstance(over, ast.Set | ast.SetComp):
                yield f"{module.name}:{over.lineno}: walks over a set, whose order differs between runs"


def find_cycle(modules: Sequence[Module]) -> list[str]:
    """Returns the modules of a cycle of imports, or []; imports for the type checker do not count."""
    names = {module.name for module in modules}
    graph = {
        module.name: {entry.module for entry in module.imports if not entry.typing_only}
        & names
        # A package's own front may gather what lies inside it.
        - {module.name}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


@functools.cache
def all_modules() -> tuple[Module, ...]:
    """Returns every module of the project that the rules speak of, parsed once."""
    paths: dict[str, Path] = {}
    for package in ("agent", "ops", "experiments", "examples"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    if (REPOSITORY / "fabfile.py").exists():
        paths["fabfile"] = REPOSITORY / "fabfile.py"
    known = frozenset(paths)
    return tuple(
        parse(name, path.read_text("utf-8"), known, path.name == "__init__.py")
        for name, path in paths.items()
    )


def test_every_import_points_down() -> None:
    """No module of the project breaks a wall."""
    modules = all_modules()
    assert {"agent", "ops"} <= {module.name for module in modules}
    problems = [line for module in modules for line in violations(module)]
    assert not problems, "\n" + "\n".join(problems)


def test_imports_form_no_cycle() -> None:
    """Modules can be read from the bottom up."""
    cycle = find_cycle(all_modules())
    assert not cycle, "import cycle: " + " → ".join(cycle)


def test_no_shell_without_need() -> None:
    """A module in SHELLS that would pass as a core leaves that table."""
    needless = []
    for module in all_modules():
        if module.name not in SHELLS:
            continue
        tops = {entry.module.split(".")[0] for entry in module.imports}
        if not (
            tops & BANNED_IN_CORES
            or tops - sys.stdlib_module_names - LIBRARIES_IN_CORES - {"agent"}
            or any(is_shell(entry.module) for entry in module.imports)
            or list(call_problems(module))
        ):
            needless.append(module.name)
    assert not needless, f"these do no input or output, take them out of SHELLS: {needless}"


KNOWN = frozenset(
    "agent agent.common agent.common.core agent.common.runner agent.wire agent.wire.framing agent.wire.server"
    " agent.membership agent.membership.swim agent.membership.service agent.membership.client agent.hydfs"
    " agent.hydfs.ring agent.hydfs.store agent.hydfs.client ops ops.inventory".split()
)

PLANTED = [
    ("agent.hydfs.ring", "import socket", "no input or output"),
    ("agent.hydfs.ring", "def f():\n    import time", "no input or output"),
    ("agent.hydfs.ring", "from os import path", "no input or output"),
    ("agent.hydfs.ring", "import psutil", "libraries of cores"),
    ("agent.hydfs.ring", "import random\nx = random.random()", "uses random.random"),
    ("agent.hydfs.ring", "from random import shuffle", "uses shuffle"),
    ("agent.hydfs.ring", "import random\nx = random.Random()", "its own random source"),
    ("agent.hydfs.ring", "from random import Random\nx = Random(1)", "its own random source"),
    ("agent.hydfs.ring", "x = open('f')", "calls open()"),
    ("agent.hydfs.ring", "x = hash('f')", "calls hash()"),
    ("agent.hydfs.ring", "for x in {1, 2}: pass", "walks over a set"),
    ("agent.hydfs.ring", "y = [x for x in set([1])]", "walks over a set"),
    ("agent.hydfs.ring", "from agent.common import runner", "a core imports no shell"),
    ("agent.hydfs.ring", "from agent.hydfs.store import Store", "a core imports no shell"),
    ("agent.hydfs.ring", "from .store import Store", "a core imports no shell"),
    ("agent.hydfs.ring", "from . import store", "a core imports no shell"),
    ("agent.hydfs.ring", "from agent.membership.swim import Swim", "never meet"),
    ("agent.hydfs.ring", "import agent.wire.server", "point down only"),
    ("agent.wire.framing", "from agent.hydfs.ring import Ring", "knows no subsystem"),
    ("agent.wire.server", "from agent.hydfs.ring import Ring", "knows no subsystem"),
    ("agent.common.core", "from agent.wire import framing", "point down only"),
    ("agent.hydfs.store", "from agent.membership.service import Service", "only agent/__main__"),
    ("agent.membership.client", "from agent.hydfs.store import Store", "only the client"),
    ("agent.hydfs.store", "import pickle", "banned everywhere"),
    ("agent.hydfs.store", "import ops.inventory", "agent never imports ops"),
    ("agent.hydfs.store", "from tests.support import wait_until", "nobody imports tests"),
    ("agent.hydfs.store", "import experiments.replication_time", "nobody imports experiments"),
    ("ops.inventory", "from agent.hydfs.ring import Ring", "ops sees only"),
    ("ops.inventory", "from agent.hydfs import store", "ops sees only"),
    ("ops.inventory", "from agent.common import runner", "ops sees only"),
    ("experiments.replication_time", "import agent.membership.swim", "ops sees only"),
    ("ops.reference", "import agent", "independent"),
    ("ops.reference", "import pyarrow", "independent"),
]

ALLOWED = [
    ("agent.hydfs.ring", "import bisect\nimport mmh3\nfrom agent.common.core import Tick"),
    ("agent.hydfs.ring", "import random\ndef pick(chance: random.Random) -> float: return chance.random()"),
    ("agent.hydfs.ring", "from random import Random\ndef pick(rng: Random) -> float: return rng.random()"),
    ("agent.hydfs.ring", "for x in sorted({1, 2}): pass"),
    ("agent.hydfs.store", "import os\nfrom agent.hydfs.ring import Ring\nfrom agent.wire import server"),
    ("agent.hydfs.store", "from agent.membership.client import Client"),
    ("agent.__main__", "from agent.membership.service import Service"),
    ("ops.inventory", "from agent.hydfs.client import Client\nfrom agent.common.errors import Unreachable"),
    ("ops.inventory", "from agent import __version__\nfrom agent.wire import authority\nimport rich"),
    ("experiments.replication_time", "from agent.hydfs.client import Client\nimport ops.inventory"),
]


@pytest.mark.parametrize(("name", "source", "rule"), PLANTED)
def test_planted_violation_is_found(name: str, source: str, rule: str) -> None:
    """The checker sees a violation of each rule."""
    found = list(violations(parse(name, source, KNOWN)))
    assert any(rule in line for line in found), found


@pytest.mark.parametrize(("name", "source"), ALLOWED)
def test_allowed_import_passes(name: str, source: str) -> None:
    """The checker lets through what the rules allow."""
    assert list(violations(parse(name, source, KNOWN))) == []


def test_cycle_is_found() -> None:
    """Two modules that import each other are a cycle, unless one does so for the type checker alone."""
    ring = parse("agent.hydfs.ring", "def f():\n    import agent.hydfs.store", KNOWN)
    store = parse("agent.hydfs.store", "from agent.hydfs.ring import Ring", KNOWN)
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agent.hydfs.ring import Ring\n"
    assert set(find_cycle([ring, store])) == {"agent.hydfs.ring", "agent.hydfs.store"}
    assert find_cycle([ring, parse("agent.hydfs.store", typed, KNOWN)]) == []
