"""The requests of searches: refusals, lost answers, ends, and their number."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.errors import Forbidden, NotFound, Overloaded, RainStormError, UsageError
from agent.logs.messages import EndSearch, StartSearch, TakePiece
from agent.logs.shell import searches
from tests.unit.logs.place import CATASTROPHE, LETTERS, LINES, Place


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pattern": b"\\("}, UsageError),
        ({"pattern": b"x" * 40_000}, UsageError),
        ({"pattern": b"x", "files": ("../a",)}, UsageError),
        ({"pattern": b"x", "system": ("/etc/passwd",)}, Forbidden),
        ({"pattern": b"x", "system": ("sshd",)}, Forbidden),
        ({"pattern": b"x", "collected_of": "../x"}, NotFound),
        ({"pattern": 5}, UsageError),
    ],
)
def test_a_search_that_is_not_allowed_is_refused(
    place: Place, fields: dict[str, Any], error: type[RainStormError]
) -> None:
    with pytest.raises(error):
        place.search(**fields)
    assert place.searches.status() == "0 searches"


def test_a_system_file_that_is_allowed_is_searched(place: Place) -> None:
    output, _ = place.search(b"root", system=(place.system,))
    assert output == f"{place.system}:root line\n".encode()


def test_a_lost_answer_is_asked_for_again_and_a_wrong_number_refused(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES)
    client = place.client
    start = StartSearch("mine", b"error")
    for _ in range(2):  # the answer to the first was lost
        assert client.ask(place.path, start).message.sources == 1
    first = client.ask(place.path, TakePiece("mine", 1))
    again = client.ask(place.path, TakePiece("mine", 1))
    assert bytes(first.payload) == bytes(again.payload) == place.grep("-e", "error", "-")
    with pytest.raises(UsageError, match="piece 3 of the search is gone"):
        client.ask(place.path, TakePiece("mine", 3))
    assert client.ask(place.path, TakePiece("mine", 2)).message.done
    with pytest.raises(NotFound):
        client.ask(place.path, TakePiece("yours", 1))


def test_ending_a_search_ends_its_grep(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LETTERS)
    place.client.ask(place.path, StartSearch("mine", CATASTROPHE, extended=True))
    assert place.searches.status() == "1 searches"
    for _ in range(2):
        place.client.ask(place.path, EndSearch("mine"))
    assert place.searches.status() == "0 searches"


def test_the_number_of_searches_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "SEARCHES_MAX", 1)
    monkeypatch.setattr(searches, "ENDED_MAX", 2)
    (place.logs / "a.log").write_bytes(LETTERS)
    place.client.ask(place.path, StartSearch("slow", CATASTROPHE, extended=True))
    with pytest.raises(Overloaded, match="1 searches"):
        place.client.ask(place.path, StartSearch("other", b"x"))
    place.client.ask(place.path, EndSearch("slow"))
    for number in range(5):
        place.search(b"%d" % number)
    assert len(place.searches._searches) <= 3


def test_the_logs_of_a_node_are_listed(place: Place) -> None:
    (place.logs / "a.log").write_bytes(b"12345\n")
    found = place.agent.list()
    assert [(each.name, each.bytes) for each in found.files] == [("a.log", 6)]
    assert (found.system_files, found.system_units) == ((place.system,), ("cron",))
