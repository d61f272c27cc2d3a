"""The system journal, through the test's own ``journalctl``: allowed units, cursors, lines, failures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import Forbidden, NotFound
from agent.logs.shell import journald

# Understands the options that the module uses: --field, --unit, --lines, --since, --cursor, --after-cursor.
PROGRAM = """#!{python}
import json, sys
entries = [json.loads(line) for line in open({path!r})]
options = [word for word in sys.argv[1:]]
given = dict(word.lstrip("-").split("=", 1) for word in options if "=" in word)
if given.get("field") == "_SYSTEMD_UNIT":
    sys.stdout.write("".join(sorted({{e["_SYSTEMD_UNIT"] + "\\n" for e in entries}})))
    sys.exit(0)
units = [word.split("=", 1)[1] for word in options if word.startswith("--unit=")]
found = [e for e in entries if e["_SYSTEMD_UNIT"] in units]
cursors = [e["__CURSOR"] for e in found]
first = True
for name, behind in (("after-cursor", 1), ("cursor", 0)):
    if name in given:
        if given[name] not in cursors:
            sys.exit(1)
        found = found[cursors.index(given[name]) + behind:]
        first = False
if "since" in given:
    since = float(given["since"].lstrip("@"))
    found = [e for e in found if int(e["__REALTIME_TIMESTAMP"]) >= since * 1e6]
if "lines" in given:
    count = int(given["lines"])
    if first and "since" not in given:
        found = found[max(0, len(found) - count):]
    else:
        found = found[:count]
for entry in found:
    if given.get("output") == "json":
        print(json.dumps(entry))
    else:
        print(entry["__REALTIME_TIMESTAMP"], entry["MESSAGE"])
"""


def entry(number: int, message: Any = None, unit: str = "rainstorm-hydfs.service") -> dict[str, Any]:
    return {
        "__CURSOR": f"c{number}",
        "__REALTIME_TIMESTAMP": str(1_000_000 * number),
        "_SYSTEMD_UNIT": unit,
        "_HOSTNAME": "vm1",
        "_PID": "7",
        "SYSLOG_IDENTIFIER": "python",
        "MESSAGE": f"message {number}" if message is None else message,
    }


class Machine:
    """A machine with a journal."""

    def __init__(self, folder: Path) -> None:
        self.entries = folder / "entries"
        self.entries.write_text("")
        program = folder / "bin" / "journalctl"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=sys.executable, path=str(self.entries)))
        program.chmod(0o755)
        self.program = program

    def write(self, *entries: dict[str, Any]) -> None:
        with self.entries.open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in entries)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    journal = tmp_path / "journal" / "id"
    journal.mkdir(parents=True)
    (journal / "system.journal").write_text("")
    monkeypatch.setattr(journald, "JOURNALS", (str(tmp_path / "journal"),))
    monkeypatch.setenv("PATH", f"{found.program.parent}:/usr/bin:/bin")
    return found


UNITS = ["rainstorm-hydfs.service"]


def test_units_are_those_that_wrote_and_are_allowed(machine: Machine) -> None:
    machine.write(entry(1), entry(2, unit="sshd.service"), entry(3, unit="rainstorm-logs.service"))
    assert journald.units(["rainstorm-*"]) == ["rainstorm-hydfs.service", "rainstorm-logs.service"]
    assert journald.units(["sshd"]) == ["sshd.service"]
    assert journald.units([]) == []
    assert journald.label("sshd.service") == "sshd.journal"


def test_units_are_asked_for_once_in_a_while(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    known = journald.Units(["*"])
    machine.write(entry(1))
    assert known.known() == UNITS
    machine.write(entry(2, unit="sshd.service"))
    assert known.known() == UNITS
    monkeypatch.setattr(journald, "UNITS_FRESH_S", 0.0)
    assert len(known.known()) == 2


def test_a_machine_without_a_journal_has_no_units(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(entry(1))
    monkeypatch.setattr(journald, "JOURNALS", ("/nowhere",))
    assert journald.units(["*"]) == []
    monkeypatch.undo()
    monkeypatch.setattr(journald, "JOURNALS", (str(machine.program.parent.parent / "journal"),))
    monkeypatch.setenv("PATH", "/nowhere")
    assert journald.units(["*"]) == []
    monkeypatch.setenv("PATH", str(machine.program.parent))
    machine.program.write_text("no program")
    assert journald.units(["*"]) == []


def test_a_request_names_units_that_are_allowed_and_have_entries(machine: Machine) -> None:
    machine.write(entry(1), entry(2, unit="sshd.service"))
    assert journald.chosen([], ["*"]) == []
    assert journald.chosen(["rainstorm-*", "rainstorm-hydfs"], ["rainstorm-*"]) == UNITS
    with pytest.raises(Forbidden, match="does not allow reading the journal of sshd"):
        journald.chosen(["sshd"], ["rainstorm-*"])
    with pytest.raises(NotFound):
        journald.chosen(["rainstorm-logs"], ["rainstorm-*"])


def test_entries_are_read_on_from_a_cursor(machine: Machine) -> None:
    assert journald.read(UNITS, "", 10, 10_000) == journald.Entries("", b"")
    machine.write(*(entry(n) for n in range(1, 6)), entry(6, unit="other.service"))
    found = journald.read(UNITS, "", 2, 10_000)
    assert found.cursor == "c2"
    assert found.data.splitlines()[0] == b"1970-01-01T00:00:01.000000+0000 vm1 python[7]: message 1"
    found = journald.read(UNITS, found.cursor, 10, 10_000)
    assert (found.cursor, found.data.count(b"\n")) == ("c5", 3)
    assert journald.read(UNITS, "c5", 10, 10_000) == journald.Entries("c5", b"")
    with pytest.raises(OSError, match="status 1"):
        journald.read(UNITS, "gone", 10, 10_000)


def test_reading_begins_at_the_last_lines_or_at_a_time(machine: Machine) -> None:
    machine.write(*(entry(n) for n in range(1, 6)))
    assert journald.tail_cursor(UNITS, 2) == "c3"
    assert journald.tail_cursor(UNITS, 50) == ""
    cursor = journald.since_cursor(UNITS, 4.0)
    assert journald.read(UNITS, cursor, 10, 10_000).data.count(b"\n") == 2
    assert journald.since_cursor(UNITS, 99.0) == journald.tail_cursor(UNITS, 0) == "c5"


@pytest.mark.slow
def test_what_is_read_at_once_is_bounded_in_bytes(machine: Machine) -> None:
    machine.write(*(entry(n, "x" * 400) for n in range(1, 9)), entry(9, "y" * 9000))
    found = journald.read(UNITS, "", 100, 1000)
    assert 0 < len(found.data) <= 1000
    data, cursor = found.data, found.cursor
    while found.data:
        found = journald.read(UNITS, cursor, 100, 1000)
        data, cursor = data + found.data, found.cursor
    assert data.count(b"\n") == 9
    assert data.count(b"x" * 400) == 8
    assert data.splitlines()[-1].endswith(b"yyy")
    assert len(data.splitlines()[-1]) < 1000


def test_messages_of_any_form_become_one_line_each(machine: Machine) -> None:
    bare = {key: value for key, value in entry(2).items() if not key.startswith(("_HOST", "_PID", "SYS"))}
    machine.write(
        entry(1, list("räksmörgås \udcff".encode("utf-8", "surrogateescape"))),
        {**bare, "MESSAGE": None},
        {**entry(3, "two\nlines"), "_SOURCE_REALTIME_TIMESTAMP": "86400000001"},
        entry(4, ["said twice", [104, 105, 255]]),
    )
    found = journald.read(UNITS, "", 10, 10_000).data
    first, second, third, more, fourth, again = found.splitlines()
    assert first.endswith(b": r\xc3\xa4ksm\xc3\xb6rg\xc3\xa5s \xff")
    assert second == b"1970-01-01T00:00:02.000000+0000 - -[-]: "
    assert third == b"1970-01-02T00:00:00.000001+0000 vm1 python[7]: two"
    assert more == b"    lines"
    assert fourth.endswith(b": said twice")
    assert again == b"    hi\xff"


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "5",
        "[]",
        "{}",
        '{"__CURSOR": "c"}',
        '{"__CURSOR": "c", "__REALTIME_TIMESTAMP": "soon"}',
        '{"__CURSOR": "c", "__REALTIME_TIMESTAMP": {}}',
        '{"__CURSOR": "c", "__REALTIME_TIMESTAMP": "99999999999999999999999999"}',
        '{"__REALTIME_TIMESTAMP": "1"}',
    ],
)
def test_what_is_no_entry_is_a_value_error(machine: Machine, line: str) -> None:
    """The threads that read the journal survive it."""
    machine.program.write_text(f"#!/bin/sh\necho '{line}'\n")
    with pytest.raises(ValueError):  # noqa: PT011
        journald.read(UNITS, "", 10, 10_000)


def test_the_command_of_a_search_has_its_range_of_time() -> None:
    words = journald.command("sshd.service", since=1.5, until=2.0)
    assert words[-3:] == ["--unit=sshd.service", "--since=@1.500000", "--until=@2.000000"]
    assert journald.command("sshd.service")[-1] == "--unit=sshd.service"
