"""A mutant: a change of one line of the code, which must make tests fail."""

from __future__ import annotations

import ast
from dataclasses import dataclass


class UnfitMutantError(Exception):
    """The mutant does not fit the code: its text does not occur exactly once, or the result is not Python."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: in ``path``, ``old`` becomes ``new``; ``tests`` must notice, because of ``rule``.

    A mutant whose tests fail is killed. One whose tests do not end is killed only if ``hangs`` says that
    they notice it in this way: otherwise a slow machine would kill mutants too.
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
            UnfitMutantError: ``old`` does not occur exactly once, or the result is not Python.
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
