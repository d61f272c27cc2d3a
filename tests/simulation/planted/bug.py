"""A rule that is broken on purpose, and how to run a seed with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from tests.gates.layering import is_shell


@dataclass(frozen=True, slots=True)
class Subject:
    """A subsystem to break: ``play`` runs a seed, only with some kinds of fault if they are named."""

    name: str
    play: Callable[[int, tuple[str, ...]], object]


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """A broken rule: the attributes to replace, their replacements, and the schedules that must find it."""

    name: str
    rule: str
    subject: Subject
    patches: tuple[tuple[Any, str, Any], ...]
    # Only these kinds of fault, if the moment is rare among all kinds.
    kinds: tuple[str, ...] = ()

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Runs with the bug in place."""
        with ExitStack() as stack:
            for owner, name, broken in self.patches:
                assert hasattr(owner, name), f"{owner.__name__}.{name} no longer exists"
                stack.enter_context(mock.patch.object(owner, name, broken))
            yield

    @property
    def is_of_a_shell(self) -> bool:
        """Tells whether any of the replaced attributes belongs to a shell rather than a core."""
        return any(is_shell(_module(owner, name)) for owner, name, _ in self.patches)

    def run(self, seed: int) -> None:
        """Runs one seed with the bug in place.

        Raises:
            AssertionError: a check has found it.
        """
        with self.planted():
            self.run_without(seed)

    def run_without(self, seed: int) -> None:
        """Runs the same seed without the bug."""
        self.subject.play(seed, self.kinds)


def _module(owner: Any, name: str) -> str:
    """Returns the module that defines a replaced attribute, which may differ from the one that uses it."""
    if not isinstance(owner, ModuleType):
        return str(owner.__module__)
    return str(getattr(getattr(owner, name), "__module__", owner.__name__))
