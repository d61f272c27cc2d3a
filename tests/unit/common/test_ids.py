"""File names: what is allowed, and that hashes do not differ between processes."""

from __future__ import annotations

import pytest

from agent.common.errors import NameInvalid
from agent.common.ids import check_file_name, ring_id, token

GOOD = ["a", "logs/2026/web.csv", "ñandú 東京.csv", "x" * 255, ".rainstorm/index", "a..b", "-"]
BAD_PARTS = ["", "..", "a/../b", "a//b", "/a", "a/", "./a"]
BAD_BYTES = ["a\0b", "a\nb", "\x7f", "x" * 256, "é" * 128, "e\u0301", "\ud800"]


@pytest.mark.parametrize("name", GOOD)
def test_good_names_pass(name: str) -> None:
    """Slashes, spaces and letters of any language are allowed."""
    assert check_file_name(name) == name


@pytest.mark.parametrize("name", BAD_PARTS + BAD_BYTES)
def test_bad_names_are_refused(name: str) -> None:
    """A name must not leave a folder, hide in a terminal or have two spellings."""
    with pytest.raises(NameInvalid) as refused:
        check_file_name(name)
    assert refused.value.hint


def test_tokens_never_change() -> None:
    """Placement must be the same in every process and release; these values are MurmurHash3's."""
    assert token("hello") == 613153351
    assert ring_id("vm1") == "43a11aaa"
    assert token(b"hello") == token("hello")
