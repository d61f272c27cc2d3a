"""Scenarios: protocols played step by step from a readable text.

The form is that of etcd-raft's ``testdata`` (cockroachdb/datadriven). A step is a command, a line of dashes
and the result; steps are separated by an empty line, and ``#`` begins a comment::

    # The coordinator sends the record to all replicas.
    append a writer=w sequence=1 data=abc
    ----
    a -> b: write 0-3
    a: persist 0-3

A test gives the text and a function that carries out one command and returns the lines of its result. With
``RAINSTORM_REWRITE=1`` in the environment the text is rewritten with the result of each command: read the
diff before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

REWRITE_VARIABLE = "RAINSTORM_REWRITE"
RULE = "----"


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, its plain words, and its words of the form ``key=value``."""

    name: str
    words: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    def list_of(self, key: str) -> tuple[str, ...]:
        """Returns the parts of an option ``key=a,b,c``."""
        return tuple(part for part in self.options.get(key, "").split(",") if part)


Carry = Callable[[Command], Iterable[str]]


def play(path: Path, carry_out: Carry) -> None:
    """Plays the scenario in ``path``.

    Raises:
        AssertionError: the result of a command differs from the text.
    """
    __tracebackhide__ = True
    lines = path.read_text("utf-8").splitlines()
    fresh: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        fresh.append(line)
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = f"{path.name}:{number}"
        assert number < len(lines), f"{where}: the command {text!r} has no line of dashes"
        assert lines[number] == RULE, f"{where}: no line of dashes follows the command {text!r}"
        end = next((at for at in range(number, len(lines)) if not lines[at].strip()), len(lines))
        wanted, number = lines[number + 1 : end], end
        found = list(carry_out(parse(text))) or ["(nothing)"]
        fresh += [RULE, *found]
        if REWRITE_VARIABLE not in os.environ:
            assert found == wanted, f"{where}: {text}\n" + _difference(wanted, found)
    if REWRITE_VARIABLE in os.environ:
        path.write_text("\n".join(fresh) + "\n", "utf-8")


def parse(text: str) -> Command:
    """Returns the command of a line."""
    name, *rest = text.split()
    options = dict(word.split("=", 1) for word in rest if "=" in word)
    return Command(name, tuple(word for word in rest if "=" not in word), options)


def _difference(wanted: list[str], found: list[str]) -> str:
    return "\n".join(["the text says:", *wanted, "the result:", *found])
