"""The mutants that tests must kill, of all subsystems."""

from __future__ import annotations

from tests.gates.mutants import Mutant
from tests.gates.mutants_of import common, hydfs_core, hydfs_shell

MUTANTS: tuple[Mutant, ...] = (*common.MUTANTS, *hydfs_core.MUTANTS, *hydfs_shell.MUTANTS)
