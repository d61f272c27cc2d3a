"""The ends of records in raw bytes, with and without quotes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.rainstorm.job.boundaries import first_end, last_end, quotes


@given(st.lists(st.sampled_from((b"a", b'"', b"\n", b",")), max_size=14).map(b"".join), st.data())
def test_record_ends_are_line_feeds_outside_quotes(data: bytes, draws: st.DataObject) -> None:
    """first_end and last_end agree with counting the quotes before every line feed."""
    inside = draws.draw(st.booleans())
    origin = draws.draw(st.integers(0, len(data)))
    begin = draws.draw(st.integers(origin, len(data)))

    def ends(quoted: bool, parity: bool, first: int) -> list[int]:
        return [
            at + 1
            for at in range(first, len(data))
            if data[at] == 10 and not (quoted and (data.count(b'"', first, at) + parity) % 2)
        ]

    for quoted in (False, True):
        later = [end for end in ends(quoted, inside, origin) if end > begin]
        assert first_end(data, begin, quoted=quoted, inside=inside, origin=origin) == min(later, default=-1)
        assert last_end(data, quoted=quoted) == max(ends(quoted, False, 0), default=0)
    assert quotes(data) == quotes(bytearray(data)) == quotes(memoryview(data)) == data.count(b'"')


def test_a_line_feed_inside_quotes_ends_no_record() -> None:
    """The quote parity at the first byte decides for all later ones."""
    data = b'a,"b\nc"\nd\n'
    assert first_end(data, 0, quoted=True) == 8
    assert first_end(data, 0, quoted=True, inside=True) == 5
    assert first_end(data, 0, quoted=False) == 5
    assert last_end(data[:-2], quoted=True) == 8
    assert last_end(b'a,"b\nc', quoted=True) == 0
