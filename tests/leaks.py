"""A pytest plugin: a test that leaves something behind is a failed test.

What must be gone after a test's teardown: Python threads, processes (children, their children, and orphans of
this run, known by a token in their environment), sockets that listen, open files, and entries in the folder
for temporary files (``tmp_path`` is pytest's own and is left alone). Pipes and other descriptors may grow
by ``OTHER_FDS_MAX``, because libraries open some of their own at first use.

A fixture of a wider scope than one test may keep the resources of its setup until it is finalised, and all
processes of a local cluster that it adopts. Resources get ``leak_grace_s`` seconds to end by themselves.
Leaked processes are killed after the report, so that one red test does not spoil the machine, and each test
is measured from its own start, so that only the culprit is red.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ops.machine.processes import marked

KILL_TIMEOUT_S = 2.0
# A library's lazily made eventfd, epoll or wake-up pipe: at most two for each of two libraries.
OTHER_FDS_MAX = 4
RUN_TOKEN_VARIABLE = "RAINSTORM_TEST_RUN"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The resources at one moment: the identity of each, mapped to its description."""

    threads: dict[object, str]
    processes: dict[object, str]
    listeners: dict[object, str]
    files: dict[object, str]
    other_fds: dict[object, str]
    temporaries: dict[object, str]

    def kinds(self) -> list[tuple[str, dict[object, str], int]]:
        """Returns each kind's name, its resources and how many new ones are tolerated."""
        return [
            ("thread", self.threads, 0),
            ("process", self.processes, 0),
            ("listening socket", self.listeners, 0),
            ("open file", self.files, 0),
            ("descriptor", self.other_fds, OTHER_FDS_MAX),
            ("temporary file", self.temporaries, 0),
        ]


class LeakCheck:
    """Compares the resources before and after each test."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.token = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="rs-tests-"))
        self.before: Snapshot | None = None
        # The resources after the last test, which are those before the next one.
        self.last: Snapshot | None = None
        # The resources of fixtures of a wider scope, and those that must be gone since theirs was finalised.
        self.owned: dict[int, set[tuple[str, object]]] = {}
        self.released: set[tuple[str, object]] = set()
        # The fixtures of a wider scope that are being set up, and the clusters of those that exist.
        self.setting_up: list[int] = []
        self.adopted: dict[int, Path] = {}
        # The ids of processes that are not of this run.
        self.strangers: set[int] = set()
        self._environment: dict[str, str | None] = {}

    def start(self) -> None:
        """Marks the processes of this run and gives it its own folder for temporary files."""
        outer = os.environ.get(RUN_TOKEN_VARIABLE)
        # tmp_path stays at pytest's default place, so that it survives the run for a look at a failure.
        self._set("PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()))
        self._set("TMPDIR", str(self.folder))
        self._set(RUN_TOKEN_VARIABLE, f"{outer}:{self.token}" if outer else self.token)
        tempfile.tempdir = None

    def stop(self) -> None:
        """Undoes ``start``."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        tempfile.tempdir = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _set(self, name: str, value: str) -> None:
        self._environment[name] = os.environ.get(name)
        os.environ[name] = value

    def snapshot(self) -> Snapshot:
        """Returns the current resources."""
        listeners, files, others = _descriptors()
        return Snapshot(
            threads={thread: f"{thread.name!r} (daemon={thread.daemon})" for thread in threading.enumerate()},
            processes={process: words for process in self.processes() if (words := _describe(process))},
            listeners=listeners,
            files=files,
            other_fds=others,
            temporaries={path: str(path) for path in sorted(self.folder.iterdir())},
        )

    def processes(self) -> list[psutil.Process]:
        """Returns the descendants of this process and the orphans that a test of this run started.

        Most tests start none, so only ids that are new are looked at: a process that is a stranger once stays
        one as long as it lives.
        """
        listed = {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()} - {os.getpid()}
        self.strangers &= listed
        if listed == self.strangers:
            return []
        found = {process.pid: process for process in psutil.Process().children(recursive=True)}
        for pid in sorted(listed - self.strangers - found.keys()):
            # We may not read it, it has ended meanwhile, or it is the kernel's: not a process of this run.
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                # It has none while it changes to another program: it counts until it is looked at again.
                is_starting = not environment and bool(os.readlink(f"/proc/{pid}/exe"))
                if is_starting or self.token.encode() in environment:
                    found[pid] = psutil.Process(pid)
        self.strangers = listed - found.keys()
        return list(found.values())

    def leaks(self, before: Snapshot) -> list[str]:
        """Returns a line for each new resource, after waiting for stragglers."""
        end = time.monotonic() + self.grace_s
        pause = threading.Event()
        collected = False
        while True:
            after = self.snapshot()
            lines = self._compare(before, after)
            if not lines or time.monotonic() >= end:
                self.last = None if lines else after
                return lines
            if not collected:
                # A resource that only a reference cycle keeps open is not a leak of the test.
                gc.collect()
                collected = True
            pause.wait(0.01)

    def _compare(self, before: Snapshot, after: Snapshot) -> list[str]:
        kept = self._kept()
        lines = []
        for (kind, old, _), (_, new, tolerated) in zip(before.kinds(), after.kinds(), strict=True):
            grown = [
                words
                for key, words in new.items()
                if (kind, key) in self.released or (key not in old and (kind, key) not in kept)
            ]
            if len(grown) > tolerated:
                lines += [f"{kind}: {words}" for words in grown]
        return lines

    def own(self, fixture: object, before: Snapshot, after: Snapshot) -> None:
        """Lets a fixture of a wider scope keep the resources of its setup."""
        pairs = zip(before.kinds(), after.kinds(), strict=True)
        made = {(kind, key) for (kind, old, _), (_, new, _) in pairs for key in new if key not in old}
        self.owned.setdefault(id(fixture), set()).update(made)

    def release(self, fixture: object) -> None:
        """From here on, the resources of the fixture must be gone."""
        self.released |= self.owned.pop(id(fixture), set())
        if folder := self.adopted.pop(id(fixture), None):
            self.released |= _processes_of(folder)

    def _kept(self) -> set[tuple[str, object]]:
        """Returns the resources that fixtures of a wider scope may keep now."""
        return set().union(*self.owned.values(), *map(_processes_of, self.adopted.values()))

    def kill_new_processes(self, before: Snapshot) -> None:
        """Ends the leaked processes, by their id."""
        kept = self._kept()
        for process in self.processes():
            identity = ("process", process)
            if identity in self.released or (process not in before.processes and identity not in kept):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    process.wait(timeout=KILL_TIMEOUT_S)


def _processes_of(folder: Path) -> set[tuple[str, object]]:
    return {("process", each.process) for each in marked(folder)}


def _describe(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline()) or process.name()
        return f"pid {process.pid} ({process.status()}): {command[:200]}"
    except psutil.NoSuchProcess:
        return ""  # it ended after it was listed


def _descriptors() -> tuple[dict[object, str], dict[object, str], dict[object, str]]:
    """Returns this process's listening sockets, open regular files and other descriptors."""
    listeners: dict[object, str] = {}
    files: dict[object, str] = {}
    others: dict[object, str] = {}
    for entry in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        number = int(entry)
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        key, words = (number, target), f"fd {number} = {target}"
        if target.startswith("socket:"):
            where = _listening_address(number)
            if where:
                listeners[key] = f"{words} listens on {where}"
            else:
                others[key] = words
        elif target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            files[key] = words
        else:
            others[key] = words
    return listeners, files, others


def _listening_address(number: int) -> str:
    """Returns the address on which descriptor ``number`` accepts traffic, or ''."""
    try:
        duplicate = socket.socket(fileno=os.dup(number))
    except OSError:
        return ""
    with duplicate:
        if duplicate.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return ""
        listens = bool(duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        address = duplicate.getsockname()
        if duplicate.type == socket.SOCK_DGRAM and duplicate.family != socket.AF_UNIX:
            listens = address[1] != 0
    return str(address or "a socket without a name") if listens else ""


_CHECK = pytest.StashKey[LeakCheck]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the plugin's setting."""
    parser.addini("leak_grace_s", "seconds in which a test's resources may still end", default="2.0")


def pytest_configure(config: pytest.Config) -> None:
    """Starts the leak check."""
    config.stash[_CHECK] = LeakCheck(float(config.getini("leak_grace_s")))
    config.stash[_CHECK].start()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the leak check."""
    config.stash[_CHECK].stop()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Remembers the resources before the test's first fixture."""
    check = item.config.stash[_CHECK]
    check.before, check.last = check.last or check.snapshot(), None
    yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Notes the resources that fixtures of a wider scope make."""
    if fixturedef.scope == "function":
        return (yield)
    check = request.config.stash[_CHECK]
    before = check.snapshot()
    check.setting_up.append(id(fixturedef))
    try:
        result = yield
    finally:
        check.setting_up.pop()
    check.own(fixturedef, before, check.snapshot())
    return result


def adopt(request: pytest.FixtureRequest, folder: Path) -> None:
    """Lets the fixture of a wider scope that is being set up keep all processes of its local cluster.

    A cluster starts tasks and spare tasks while tests use it. When the fixture is finalised, no process of
    the cluster in ``folder`` may be left.
    """
    check = request.config.stash[_CHECK]
    check.adopted[check.setting_up[-1]] = folder


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Ends the permission of a fixture of a wider scope to keep its resources."""
    request.config.stash[_CHECK].release(fixturedef)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fails the test if any of its resources is left."""
    yield
    check = item.config.stash[_CHECK]
    before, check.before = check.before, None
    if before is None:
        return
    lines = check.leaks(before)
    if lines:
        check.kill_new_processes(before)
    check.released.clear()
    if lines:
        pytest.fail("the test leaves something behind:\n  " + "\n  ".join(lines), pytrace=False)
