"""Cuts the power at every call of a program, each time with several kinds of luck; tests check every result.

``power_cuts`` runs a single-threaded program once for every cut and ends it there. ``Recorder`` lets a
program with threads run to its end and keeps a copy of the disk before every call.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.common.shell import seam
from tests.simulation.machine.disk import Call, MachineDisk

# A program that makes more calls than this does not end.
CALLS_MAX = 10_000


class PowerCut(BaseException):
    """The program ends here, without any clean-up."""


@dataclass
class Moment:
    """One cut: its place, and the disk after it."""

    disk: MachineDisk
    calls: int
    luck: int
    survived: bool

    def __str__(self) -> str:
        return f"power cut before call {self.calls}, luck {self.luck}"


def power_cuts(
    program: Callable[[], None],
    *,
    seed: int,
    lucks: int = 8,
    prepare: Callable[[], None] = lambda: None,
    holes: bool = False,
) -> Iterator[Moment]:
    """Runs ``program`` once for each of its calls and each luck, and yields the state that the cut left.

    ``prepare`` runs first, and everything that it does is durable. The moment is yielded with a new process
    installed, for the caller to recover and check. The last moments are cuts after the end (``survived``).
    """
    for calls in range(CALLS_MAX):
        ended = False
        for luck in range(lucks):
            machine = MachineDisk(random.Random(f"{seed}/{calls}/{luck}"))
            _run(machine, prepare, None)
            machine.crash("everything")
            ended = _run(machine, program, calls)
            machine.crash(holes=holes)
            with seam.use(seam.Seam(disk=machine.process("recovery"))):
                yield Moment(machine, calls, luck, ended)
        if ended:
            return
    raise AssertionError(f"the program made more than {CALLS_MAX} calls")


T = TypeVar("T")


class Recorder(Generic[T]):
    """Keeps the disk before every call of a program, with the program's acknowledgements so far."""

    def __init__(self, machine: MachineDisk, acknowledged: Callable[[], T]) -> None:
        self._machine = machine
        self._acknowledged = acknowledged
        self._kept: list[tuple[T, MachineDisk]] = []
        machine.on_call = self._keep

    def _keep(self, _: Call) -> None:
        self._machine.on_call = None
        self._kept.append((self._acknowledged(), copy.deepcopy(self._machine)))
        self._machine.on_call = self._keep

    def cuts(self, seed: int, lucks: int, *, holes: bool = False) -> Iterator[tuple[str, T]]:
        """Yields each cut and the acknowledgements before it, with the disk that it left installed."""
        self._machine.on_call = None
        for number, (acknowledged, kept) in enumerate(self._kept):
            for luck in range(lucks):
                machine = copy.deepcopy(kept)
                machine.rng = random.Random(f"{seed}/{number}/{luck}")
                machine.crash(holes=holes)
                with seam.use(seam.Seam(disk=machine.process("recovery"))):
                    yield f"power cut before call {number}, luck {luck}", acknowledged


def _run(machine: MachineDisk, program: Callable[[], None], calls: int | None) -> bool:
    """Runs a program until its power is cut before a call; tells whether it reached its end."""
    left = calls

    def count(_: Call) -> None:
        nonlocal left
        if left is None:
            return
        if left == 0:
            raise PowerCut
        left -= 1

    machine.on_call = count
    try:
        with seam.use(seam.Seam(disk=machine.process("program"))):
            program()
    except PowerCut:
        return False
    finally:
        machine.on_call = None
    return True
