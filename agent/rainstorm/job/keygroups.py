"""Assigns keys to tasks: keys hash to key groups, and key groups are divided among tasks.

720 has many divisors, so that any usual number of tasks gets equal shares. The hash is MurmurHash3,
never Python's ``hash``, which differs from process to process.
"""

from __future__ import annotations

import mmh3
import numpy as np
import numpy.typing as npt

KEY_GROUPS = 720


def key_group(key: bytes) -> int:
    """Returns the group of ``key``, 0 <= group < 720."""
    return mmh3.hash(key, signed=False) % KEY_GROUPS


def table(tasks: int) -> npt.NDArray[np.int32]:
    """Returns the task of each key group: contiguous ranges of nearly equal size."""
    return (np.arange(KEY_GROUPS) * tasks // KEY_GROUPS).astype(np.int32)


def targets(keys: list[bytes], routing: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Returns the task of each key."""
    groups = np.fromiter(map(key_group, keys), np.int32, len(keys))
    return routing[groups]
