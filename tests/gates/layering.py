"""The rules of layering: imports point down only, and cores do no input or output.

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

from tests.support import REPOSITORY

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
    """The facts about a module that the rules need; syntax trees of all modules would take much memory."""

    name: str
    imports: tuple[Import, ...]
    # The things that the module does although a core must not; empty for other modules.
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
        # A package's ``__init__`` may import the modules inside the package.
        - {module.name}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


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


@functools.cache
def all_modules() -> tuple[Module, ...]:
    """Returns every module of the project to which the rules apply, parsed once."""
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
