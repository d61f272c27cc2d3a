"""Keys and their tasks: evenly distributed, and the same in every process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.rainstorm.job import keygroups


@given(st.integers(1, 64), st.lists(st.binary(max_size=8), max_size=50))
def test_every_key_has_one_task(tasks: int, keys: list[bytes]) -> None:
    """Each task gets one run of key groups of nearly equal size, and equal keys always meet."""
    table = keygroups.table(tasks)
    sizes = [int((table == task).sum()) for task in range(tasks)]
    assert sum(sizes) == keygroups.KEY_GROUPS
    assert max(sizes) - min(sizes) <= 1
    assert sorted(table) == list(table)
    assert keygroups.targets(keys, table).tolist() == [table[keygroups.key_group(key)] for key in keys]


def test_the_hash_is_the_same_everywhere() -> None:
    """MurmurHash3, whose values are known: another hash would split a key's count over two tasks."""
    assert keygroups.key_group(b"") == 0
    assert keygroups.key_group(b"hello") == 0x248BFA47 % 720
