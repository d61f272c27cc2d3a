"""The mutants that tests must kill: lines on which safety rests, each changed so that its rule is broken."""

from __future__ import annotations

from tests.gates.mutants import Mutant

REGISTER = "agent/common/register.py"
REGISTER_TESTS = ("tests/unit/common/test_register.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a voter promises no ballot twice, nor one below its promise",
        REGISTER,
        "if ballot <= slot.promised:",
        "if ballot < slot.promised:",
        REGISTER_TESTS,
    ),
    Mutant(
        "a voter accepts nothing below its promise",
        REGISTER,
        "if ballot < slot.promised:",
        "if False:",
        REGISTER_TESTS,
    ),
)
