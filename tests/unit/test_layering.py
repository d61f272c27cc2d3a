"""The walls of the code: imports point down only, and cores do no input or output.

The path tells a core from a shell. A module under ``agent/`` is a **shell**, which may do input and output,
if it lies in a room called ``shell`` or ``io``, if it is a door of its subsystem (``client``, ``service``,
``attachment``, ``follower``, ``__main__``), or if it belongs to ``agent/wire`` outside ``codec``. Every other
module is a **core**. The layers, top first::

    agent/__main__                  may import all of agent
    subsystem shells                client, service, shell/, io/
    wire                            server, client, connection ... (never a subsystem)
    subsystem cores                 (never another subsystem)
    wire/codec                      frames and record formats
    common                          cores, and in shell/ the parts that all shells share

From another subsystem a shell may import the cores, the ``client`` and membership's ``attachment`` (by which
a service shows that it is alive) and ``follower`` (by which it follows the view), never its other shells.
``ops`` and ``experiments`` see only clients, the wire and a few modules of ``common``. At every level the
rooms and modules of one folder have no import cycle.
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

# With more modules than this a folder is hard to survey.
ROOM_MODULES_MAX = 15
# Doors of a subsystem: modules at its root that may do input and output, by name.
DOORS = frozenset("__main__ client service attachment follower".split())
# Rooms whose modules may do input and output.
SHELL_ROOMS = frozenset("shell io".split())

# The modules that a core must not import: the operating system, time, randomness, other threads.
BANNED_IN_CORES = frozenset(
    "asyncio _thread concurrent ctypes datetime fcntl ftplib glob http logging mmap multiprocessing os"
    " pathlib queue random sched secrets select selectors shutil signal socket socketserver ssl subprocess"
    " tempfile threading time urllib uuid".split()
)
BANNED_EVERYWHERE = frozenset("asyncio marshal pickle shelve".split())
BANNED_CALLS_IN_CORES = frozenset("breakpoint exec eval hash input open print".split())
# Libraries that compute and do nothing else unless asked to.
LIBRARIES_IN_CORES = frozenset("cryptography mmh3 msgpack msgspec numpy polars pyarrow yaml".split())
# Single exceptions: (core, module it may import), and why.
EXEMPT = {
    ("agent.common.config", "pathlib"): "reads the one configuration file before anything runs",
    ("agent.common.message", "threading"): "compiles each class in one thread; a core does not notice",
}

COMMON_FOR_OPS = frozenset(
    f"agent.common.{name}" for name in "config deadline errors ids shell shell.clock shell.network".split()
)
# The reference program must share no code with the engine that it checks.
INDEPENDENT = frozenset({"ops.demo.reference"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, where, and whether only the type checker sees it."""

    module: str
    line: int
    typing_only: bool


@dataclass(frozen=True, slots=True)
class Module:
    """What the rules ask of one module, without its syntax tree: those of all modules are large."""

    name: str
    imports: tuple[Import, ...]
    # What a core must not do; empty for other modules.
    random_uses: tuple[str, ...]
    calls: tuple[str, ...]

    @property
    def is_core(self) -> bool:
        """Tells whether the module must do no input or output."""
        return is_core(self.name)


def is_core(name: str) -> bool:
    """Tells from its path whether the module ``name`` must do no input or output."""
    return name.startswith("agent.") and not is_shell(name)


def is_shell(name: str) -> bool:
    """Tells from its path whether the module ``name`` may do input and output."""
    parts = name.split(".")
    if parts[:2] == ["agent", "wire"]:
        return len(parts) > 2 and parts[2] != "codec"
    return parts[-1] in DOORS or not SHELL_ROOMS.isdisjoint(parts[1:-1])


def parse(name: str, source: str, known: frozenset[str], is_package: bool = False) -> Module:
    """Returns the module called ``name``; ``known`` tells modules from names inside them."""
    nodes = list(ast.walk(ast.parse(source)))
    guarded = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and _is_for_type_checker(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in nodes:
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
                targets.append(inner if inner in known else base)
        line = getattr(node, "lineno", 0)
        found += [Import(target, line, id(node) in guarded) for target in targets if target]
    core = is_core(name)
    return Module(
        name,
        tuple(dict.fromkeys(found)),
        tuple(random_problems(nodes)) if core else (),
        tuple(call_problems(name, nodes)) if core else (),
    )


def _is_for_type_checker(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


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
    """Returns the subsystem that a module of ``agent`` belongs to, or '' for the shared ones."""
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
            yield f"{where}: nothing imports {top}"
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
    yield from module.calls


def visible_to_ops(target: str) -> bool:
    """Tells whether ``ops`` and ``experiments`` may import this module of ``agent``."""
    return (
        target in ("agent", "agent.wire", "agent.common")
        or target.startswith("agent.wire.")
        or target in COMMON_FOR_OPS
        or _is_vocabulary_or_client(target)
    )


def _is_vocabulary_or_client(target: str) -> bool:
    """Tells whether a module is a client, or at a subsystem's root and returned by its clients."""
    parts = target.split(".")
    if len(parts) < 3 or parts[1] in ("common", "wire"):
        return False
    return parts[2] == "messages" or (len(parts) == 3 and parts[2] not in DOORS - {"client"})


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
            yield "common knows no subsystem"
        elif not is_shell(name):
            yield "the cores of two subsystems never meet"
        elif is_shell(target) and not target.endswith((".client", ".attachment", ".follower")):
            yield "of another subsystem's shells only the client may be used"


def core_import_problems(module: Module, entry: Import, where: str) -> Iterator[str]:
    """Yields the problem of a core's import from outside this project."""
    top = entry.module.split(".")[0]
    if top == "random":
        yield from (f"{where}: {use}" for use in module.random_uses)
    elif top in BANNED_IN_CORES:
        yield f"{where}: cores do no input or output (that is for a room called shell)"
    elif top not in sys.stdlib_module_names and top not in LIBRARIES_IN_CORES:
        yield f"{where}: not among the libraries of cores"


def random_problems(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Yields uses of ``random`` other than the name of the type ``random.Random``."""
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            if node.attr != "Random":
                yield f"uses random.{node.attr} at line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"uses {alias.name}" for alias in node.names if alias.name != "Random")
        if isinstance(node, ast.Call) and _called(node) in ("random.Random", "Random"):
            yield f"makes its own random source at line {node.lineno}; it must be given one"


def call_problems(name: str, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Yields calls of built-in functions that a core may not make, and walks over sets."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in BANNED_CALLS_IN_CORES:
                yield f"{name}:{node.lineno}: calls {node.func.id}() in a core"
        elif isinstance(node, ast.For | ast.comprehension):
            over = node.iter
            made = isinstance(over, ast.Call) and _called(over) in ("set", "frozenset")
            if made or isinstance(over, ast.Set | ast.SetComp):
                yield f"{name}:{over.lineno}: walks over a set, whose order differs between runs"


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}"
    return ""


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


def find_circles(modules: Sequence[Module]) -> list[str]:
    """Returns a line for each folder whose rooms and modules import each other in a circle."""
    circles = []
    names = [module.name.split(".") for module in modules]
    folders = {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}
    for folder in sorted(folders):
        depth = folder.count(".") + 2
        graph: dict[str, set[str]] = {}
        for module in modules:
            room = ".".join(module.name.split(".")[:depth])
            for entry in module.imports:
                target = ".".join(entry.module.split(".")[:depth])
                inside = room.startswith(f"{folder}.") and target.startswith(f"{folder}.")
                if inside and room != target and not entry.typing_only:
                    graph.setdefault(room, set()).add(target)
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circles.append(f"{folder}: {' → '.join(reversed(error.args[1]))}")
    return circles


def test_rooms_form_no_circle() -> None:
    """A folder can be read room by room, at every level of the tree."""
    modules = [module for module in all_modules() if module.name.startswith(("agent.", "ops."))]
    assert len(modules) > 100
    assert find_circles(modules) == []


def test_circle_of_rooms_is_found() -> None:
    """Two rooms that import each other are a circle although no two modules do."""
    known = frozenset("agent.x.a.one agent.x.a.two agent.x.b.one agent.x.b.two".split())
    there = parse("agent.x.a.one", "import agent.x.b.one", known)
    back = parse("agent.x.b.two", "import agent.x.a.two", known)
    assert find_circles([there]) == []
    (circle,) = find_circles([there, back])
    assert circle.startswith("agent.x: ")
    assert circle.endswith(("agent.x.a → agent.x.b → agent.x.a", "agent.x.b → agent.x.a → agent.x.b"))


def test_rooms_are_not_full() -> None:
    """A folder has at most 15 modules: one that grows beyond that must be divided into rooms."""
    full = {
        str(folder.relative_to(REPOSITORY)): count
        for top in ("agent", "ops")
        for folder in sorted((REPOSITORY / top).rglob("*"))
        if folder.is_dir()
        and (count := sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")) > ROOM_MODULES_MAX
    }
    assert not full


KNOWN = frozenset(
    """
    agent agent.common agent.common.core agent.common.shell agent.common.shell.runner
    agent.wire agent.wire.server agent.wire.codec agent.wire.codec.framing
    agent.membership agent.membership.swim agent.membership.core agent.membership.core.swim
    agent.membership.service agent.membership.client
    agent.hydfs agent.hydfs.ring agent.hydfs.core agent.hydfs.core.ring agent.hydfs.client
    agent.hydfs.shell agent.hydfs.shell.store
    ops ops.cluster.inventory
    """.split()
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
    ("agent.hydfs.ring", "from agent.common.shell import runner", "a core imports no shell"),
    ("agent.hydfs.ring", "from agent.hydfs.shell.store import Store", "a core imports no shell"),
    ("agent.hydfs.ring", "from .shell.store import Store", "a core imports no shell"),
    ("agent.hydfs.ring", "from .shell import store", "a core imports no shell"),
    ("agent.hydfs.ring", "from agent.membership.swim import Swim", "never meet"),
    ("agent.hydfs.ring", "import agent.wire.server", "point down only"),
    ("agent.wire.codec.framing", "from agent.hydfs.ring import Ring", "knows no subsystem"),
    ("agent.wire.server", "from agent.hydfs.ring import Ring", "knows no subsystem"),
    ("agent.common.core", "from agent.wire import framing", "point down only"),
    ("agent.hydfs.shell.store", "from agent.membership.service import Service", "only agent/__main__"),
    ("agent.membership.client", "from agent.hydfs.shell.store import Store", "only the client"),
    ("agent.hydfs.shell.store", "import pickle", "banned everywhere"),
    ("agent.hydfs.shell.store", "import ops.cluster.inventory", "agent never imports ops"),
    ("agent.hydfs.shell.store", "from tests.support import wait_until", "nothing imports tests"),
    ("agent.hydfs.shell.store", "import experiments.replication_time", "nothing imports experiments"),
    ("ops.cluster.inventory", "from agent.hydfs.core.ring import Ring", "ops sees only"),
    ("ops.cluster.inventory", "from agent.hydfs.shell import store", "ops sees only"),
    ("ops.cluster.inventory", "from agent.common.shell import runner", "ops sees only"),
    ("experiments.replication_time", "import agent.membership.core.swim", "ops sees only"),
    ("ops.demo.reference", "import agent", "independent"),
    ("ops.demo.reference", "import pyarrow", "independent"),
]

ALLOWED = [
    ("agent.hydfs.ring", "import bisect\nimport mmh3\nfrom agent.common.core import Tick"),
    ("agent.hydfs.ring", "import random\ndef pick(chance: random.Random) -> float: return chance.random()"),
    ("agent.hydfs.ring", "from random import Random\ndef pick(rng: Random) -> float: return rng.random()"),
    ("agent.hydfs.ring", "for x in sorted({1, 2}): pass"),
    ("agent.hydfs.shell.store", "import os\nfrom agent.hydfs import ring\nfrom agent.wire import server"),
    ("agent.hydfs.shell.store", "from agent.membership.client import Client"),
    ("agent.hydfs.shell.store", "from agent.membership.follower import ViewFollower"),
    ("agent.__main__", "from agent.membership.service import Service"),
    ("ops.cluster.inventory", "from agent.hydfs.client import Client\nfrom agent.common import errors"),
    ("ops.cluster.inventory", "from agent import __version__\nfrom agent.wire import authority\nimport rich"),
    ("experiments.replication_time", "from agent.hydfs.client import Client\nimport ops.cluster.inventory"),
]


@pytest.mark.parametrize(("name", "source", "rule"), PLANTED)
def test_planted_violation_is_found(name: str, source: str, rule: str) -> None:
    """The checker sees a violation of each rule."""
    found = list(violations(parse(name, source, KNOWN)))
    assert any(rule in line for line in found), found


@pytest.mark.parametrize(("name", "source"), ALLOWED)
def test_allowed_import_passes(name: str, source: str) -> None:
    """The checker accepts everything that the rules allow."""
    assert list(violations(parse(name, source, KNOWN))) == []


def test_cycle_is_found() -> None:
    """Two modules that import each other are a cycle, unless one does so only for the type checker."""
    ring = parse("agent.hydfs.ring", "def f():\n    import agent.hydfs.shell.store", KNOWN)
    store = parse("agent.hydfs.shell.store", "from agent.hydfs.ring import Ring", KNOWN)
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agent.hydfs.ring import Ring\n"
    assert set(find_cycle([ring, store])) == {"agent.hydfs.ring", "agent.hydfs.shell.store"}
    assert find_cycle([ring, parse("agent.hydfs.shell.store", typed, KNOWN)]) == []
