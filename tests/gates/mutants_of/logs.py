"""Mutants of the collection of logs and of searches."""

from __future__ import annotations

from tests.gates.mutant import Mutant

COLLECTOR = "agent/logs/core/collector.py"
POSITION = "agent/logs/core/position.py"
QUERY = "agent/logs/core/query.py"
SPOOL = "agent/logs/shell/spool.py"
COLLECTION = "agent/logs/shell/collector.py"
SOURCES = "agent/logs/shell/sources.py"
SEARCHES = "agent/logs/shell/searches.py"

OF_COLLECTOR = "tests/unit/logs/core/test_collector.py"
OF_QUERY = ("tests/unit/logs/core/test_query.py",)
OF_SPOOL = ("tests/unit/logs/shell/test_spool.py",)
OF_COLLECTION = ("tests/unit/logs/shell/test_collector.py",)
OF_SOURCES = ("tests/unit/logs/shell/test_sources.py",)
OF_SEARCHES = ("tests/unit/logs/shell/test_searches.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a position holds only in the file whose beginning it knows",
        POSITION,
        "return zlib.crc32(seen.head[: self.head_bytes]) == self.head_crc",
        "return True",
        (f"{OF_COLLECTOR}::test_a_used_inode_is_another_file",),
    ),
    Mutant(
        "half a line waits until its file is complete",
        COLLECTOR,
        "return not seen.live and end >= seen.size and (seen.packed or still_for_s >= SETTLE_S)",
        "return True",
        (f"{OF_COLLECTOR}::test_half_a_line_waits_until_its_file_is_done",),
    ),
    Mutant(
        "a collected file is bounded",
        COLLECTOR,
        "if target.day != self._day or target.size + size > self._target_bytes_max:",
        "if target.day != self._day:",
        (f"{OF_COLLECTOR}::test_targets_are_bounded_and_begin_anew_each_day",),
    ),
    Mutant(
        "a number of a file is never used twice",
        COLLECTOR,
        "self._next_number = max(self._next_number, position.number + 1)",
        "pass",
        (OF_COLLECTOR,),
    ),
    Mutant(
        "a chunk is taken once",
        COLLECTOR,
        "or (position.key, position.offset) != (event.key, event.offset):",
        "or False:",
        (OF_COLLECTOR,),
    ),
    Mutant(
        "the limits of the agent bound those of the caller",
        QUERY,
        "output_bytes_max=min(int(wanted_bytes or output_bytes_max), output_bytes_max),",
        "output_bytes_max=int(wanted_bytes or output_bytes_max),",
        OF_QUERY,
    ),
    Mutant(
        "a segment of the spool goes only when its records have arrived",
        SPOOL,
        "self._segments.drop_before(self._unsent[0].segment if self._unsent else self._segments.numbers[-1])",
        "self._segments.drop_before(self._segments.numbers[-1])",
        OF_SPOOL,
    ),
    Mutant(
        "the names of writers change when the spool was lost",
        SPOOL,
        "made = threads.unique_id()[:12]",
        'made = "0" * 12',
        OF_SPOOL,
    ),
    Mutant(
        "the spool is bounded",
        COLLECTION,
        "if self._spool.size_bytes + len(record.data) > self._knobs.spool_bytes:",
        "if False:",
        OF_COLLECTION,
    ),
    Mutant(
        "a link in the log folder is not followed",
        SOURCES,
        "os.O_RDONLY | os.O_NOFOLLOW |",
        "os.O_RDONLY |",
        OF_SOURCES,
    ),
    Mutant(
        "a name that belongs to another file by now is not read",
        SOURCES,
        "if (status.st_dev, status.st_ino) != file.key:",
        "if False:",
        OF_SOURCES,
    ),
    Mutant(
        "searches in progress are bounded",
        SEARCHES,
        "if len(self._searches) - len(ended[-ENDED_MAX:]) >= SEARCHES_MAX:",
        "if False:",
        OF_SEARCHES,
    ),
)
