"""Every module of ``agent`` has its tests at the same place below ``tests/unit``: ``test_`` and its name.

So the tests of a module are found without a search, and a module without tests is noticed at once. A few
modules contain only definitions, which the tests of their users cover: each is listed here with its reason.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from tests.support import REPOSITORY

UNIT = REPOSITORY / "tests" / "unit"
EVENTS = "events and effects of a core, without code: the tests of the core use them"
FUZZED = "messages without code: tests/fuzz tries every one of them with hostile fields"
TYPES = "names of types and bounds: the messages that have them are fuzzed"
EXEMPT = {
    "__main__.py": "tests/unit/test_main.py",
    "common/core.py": "the contract of cores, without code",
    "hydfs/core/events.py": EVENTS,
    "membership/core/events.py": EVENTS,
    "membership/core/detectors/detector.py": "the contract of detectors, without code",
    "membership/messages/agents.py": FUZZED,
    "membership/messages/events.py": f"{FUZZED}; and they are tested in shell/test_eventlog.py",
    "membership/messages/members.py": FUZZED,
    "membership/messages/orders.py": FUZZED,
    "membership/messages/view.py": FUZZED,
    "rainstorm/host/core/events.py": EVENTS,
    "rainstorm/leader/core/effects.py": EVENTS,
    "rainstorm/job/header.py": FUZZED,
    "rainstorm/job/names.py": TYPES,
    "rainstorm/job/segment.py": "one name of a file, and a time limit",
    "rainstorm/messages/channel.py": FUZZED,
    "rainstorm/messages/client.py": FUZZED,
    "rainstorm/messages/commands.py": FUZZED,
    "rainstorm/messages/control.py": FUZZED,
    "rainstorm/messages/fields.py": TYPES,
    "rainstorm/messages/reports.py": FUZZED,
    "rainstorm/messages/status.py": FUZZED,
}


def modules() -> list[str]:
    """Returns the paths of all modules below ``agent``."""
    agent = REPOSITORY / "agent"
    found = [path.relative_to(agent).as_posix() for path in agent.rglob("*.py")]
    return sorted(path for path in found if PurePath(path).name != "__init__.py")


def mirror_of(module: str) -> Path:
    """Returns where the tests of a module belong."""
    path = PurePath(module)
    return UNIT / path.parent / f"test_{path.name}"


@pytest.mark.parametrize("module", modules())
def test_every_module_has_its_tests(module: str) -> None:
    if module in EXEMPT:
        assert not mirror_of(module).exists(), f"{module} has tests: take it out of EXEMPT"
    else:
        assert mirror_of(module).is_file(), f"write {mirror_of(module).relative_to(REPOSITORY)}"


def test_no_exemption_is_left_behind() -> None:
    assert sorted(set(EXEMPT) - set(modules())) == []
