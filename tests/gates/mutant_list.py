"""The mutants that tests must kill, of all subsystems."""

from __future__ import annotations

from tests.gates.mutant import Mutant
from tests.gates.mutants_of import (
    common,
    hydfs_core,
    hydfs_shell,
    logs,
    membership_core,
    membership_shell,
    rainstorm_leader,
    rainstorm_node,
    wire,
)

MUTANTS: tuple[Mutant, ...] = (
    *common.MUTANTS,
    *wire.MUTANTS,
    *membership_core.MUTANTS,
    *membership_shell.MUTANTS,
    *hydfs_core.MUTANTS,
    *hydfs_shell.MUTANTS,
    *rainstorm_leader.MUTANTS,
    *rainstorm_node.MUTANTS,
    *logs.MUTANTS,
)
