"""A mutant: one line of the code is changed, and tests must fail."""

from __future__ import annotations

import ast
from dataclasses import dataclass


class UnfitMutantError(Exception):
    """The mutant does not fit the code: its text is not there exactly once, or the change is not Python."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: in ``path``, ``old`` becomes ``new``; ``tests`` must notice, because of ``rule``.

    A mutant whose tests fail is killed. One whose tests do not end is killed only if ``hangs`` says that
    this is how they notice: a slow machine would otherwise kill mutants as well.
    """

    rule: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs: bool = False

    def change(self, text: str) -> str:
        """Returns the text of the file with the change.

        Raises:
            UnfitMutantError: ``old`` does not occur exactly once, or what comes out is not Python.
        """
        count = text.count(self.old)
        if count != 1:
            raise UnfitMutantError(f"its text occurs {count} times")
        changed = text.replace(self.old, self.new)
        try:
            ast.parse(changed, self.path)
        except SyntaxError as error:
            raise UnfitMutantError(f"it is not Python: {error}") from error
        return changed
