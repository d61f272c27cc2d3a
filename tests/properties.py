"""How many examples a test of a property looks at."""

from __future__ import annotations

import hypothesis


def examples(most: int) -> int:
    """Returns ``most``, or as many as the profile of this run allows: few in ``make check``."""
    return min(most, hypothesis.settings().max_examples)
