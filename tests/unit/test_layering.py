"""No module of the project breaks a rule of ``tests/gates/layering.py``, and the gate finds violations."""

from __future__ import annotations

import pytest

from tests.gates.layering import all_modules, find_circles, find_cycle, parse, violations
from tests.support import REPOSITORY

# With more modules than this a folder is hard to survey.
ROOM_MODULES_MAX = 15


def test_every_import_points_down() -> None:
    """No module of the project breaks a rule."""
    modules = all_modules()
    assert {"agent", "ops"} <= {module.name for module in modules}
    problems = [line for module in modules for line in violations(module)]
    assert not problems, "\n" + "\n".join(problems)


def test_imports_form_no_cycle() -> None:
    """Modules can be read from the bottom up."""
    cycle = find_cycle(all_modules())
    assert not cycle, "import cycle: " + " → ".join(cycle)


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
