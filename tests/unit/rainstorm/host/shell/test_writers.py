"""Segments and publications: one append per epoch, each epoch of a sink once, whatever the store answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.common.errors import Corrupt, DeadlineExceeded, NotFound, Unavailable
from agent.rainstorm.host.core.events import (
    AppendSegments,
    OutputPublished,
    PublicationRefused,
    PublishOutput,
    SegmentsAppended,
)
from agent.rainstorm.host.shell import writers
from agent.rainstorm.host.shell.writers import PIECES_PER_EPOCH_MAX, Publisher, SegmentWriter
from agent.rainstorm.job.segment import segment_file
from tests.support import wait_until
from tests.unit.rainstorm.memorystore import MemoryStore

JOB = "j-1"


class Told(list[Any]):
    """The events that the writers posted to the host core."""

    def wait(self, count: int) -> list[Any]:
        """Returns all events once there are ``count`` of them."""
        wait_until(lambda: len(self) >= count, 5, f"{count} events")
        return self


@pytest.fixture
def store() -> MemoryStore:
    """A store."""
    return MemoryStore()


@pytest.fixture
def told() -> Told:
    """The events."""
    return Told()


@pytest.fixture
def segments(store: MemoryStore, told: Told) -> Iterator[SegmentWriter]:
    """A segment writer whose files are full after ten bytes."""
    writer = SegmentWriter(store.storage(), "n1-a", told.append, file_bytes=10)
    writer.start()
    yield writer
    writer.stop(5.0)


@pytest.fixture
def publisher(store: MemoryStore, told: Told) -> Iterator[Publisher]:
    """A publisher."""
    writer = Publisher(store.storage(), told.append)
    writer.start()
    yield writer
    writer.stop(5.0)


def test_segments_of_an_epoch_lie_one_behind_the_other(
    store: MemoryStore, segments: SegmentWriter, told: Told
) -> None:
    """References say where each part is; a full file is followed by a new one."""
    segments.put(AppendSegments(JOB, 1, 5, [b"state", b"", b"output"]))
    segments.put(AppendSegments(JOB, 1, 6, [b"more"]))
    first, second = segment_file(JOB, "n1-a", 1), segment_file(JOB, "n1-a", 2)
    assert told.wait(2) == [
        SegmentsAppended(JOB, 1, 5, [[(first, 0, 5)], [], [(first, 5, 6)]]),
        SegmentsAppended(JOB, 1, 6, [[(second, 0, 4)]]),
    ]
    assert bytes(store.files[first].data) == b"stateoutput"


@pytest.mark.parametrize("error", [Corrupt("damaged"), ValueError("a defect")])
def test_after_a_failed_append_a_new_file_is_begun(
    store: MemoryStore, segments: SegmentWriter, told: Told, error: Any
) -> None:
    """The end of the old file is unknown; the epoch is not acknowledged, and other epochs continue."""
    segments.put(AppendSegments(JOB, 1, 5, [b"abc"]))
    told.wait(1)
    store.fail("append", error)
    segments.put(AppendSegments(JOB, 1, 6, [b"lost"]))
    segments.put(AppendSegments(JOB, 2, 7, [b"kept"]))
    assert told.wait(2)[1] == SegmentsAppended(JOB, 2, 7, [[(segment_file(JOB, "n1-a", 2), 0, 4)]])


def test_the_open_files_of_few_jobs_are_remembered(
    store: MemoryStore, segments: SegmentWriter, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was forgotten gets a new file."""
    monkeypatch.setattr(writers, "JOBS_MAX", 2)
    for number, job in enumerate(("j-1", "j-2", "j-3", "j-1")):
        segments.put(AppendSegments(job, 1, number, [b"x"]))
    told.wait(4)
    assert len([name for name in store.files if name.startswith(".rainstorm/j-1/")]) == 2


def test_output_is_published_once_in_pieces(
    store: MemoryStore, publisher: Publisher, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory or from its references; a repetition changes nothing."""
    store.put_bytes("out", b"")
    store.put_bytes("segments", b"..three\n")
    wanted = PublishOutput(JOB, 1, "1.0", "out", [("segments", 2, 6)], b"one\ntwo\n")
    monkeypatch.setattr(writers, "pieces", lambda data: iter([data[:4], data[4:]]))
    for _ in range(2):
        publisher.put(wanted)
    publisher.put(PublishOutput(JOB, 2, "1.0", "out", [("segments", 2, 6)], None))
    assert told.wait(3) == [OutputPublished(JOB, epoch, "1.0") for epoch in (1, 1, 2)]
    assert bytes(store.files["out"].data) == b"one\ntwo\nthree\n"
    assert store.files["out"].writers[f"{JOB}/1.0"][0] == 2 * PIECES_PER_EPOCH_MAX + 1


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), Unavailable("no copy")])
def test_a_publication_that_may_succeed_later_is_left_to_the_leader(
    store: MemoryStore, publisher: Publisher, told: Told, error: Any
) -> None:
    """The leader asks again; nothing is reported now."""
    store.put_bytes("out", b"")
    store.gives_up.set()
    store.fail("append", error)
    publisher.put(PublishOutput(JOB, 1, "1.0", "out", [], b"one\n"))
    publisher.put(PublishOutput(JOB, 2, "1.0", "out", [], b"two\n"))
    assert told.wait(1) == [OutputPublished(JOB, 2, "1.0")]


def test_a_publication_that_can_never_succeed_is_refused(
    store: MemoryStore, publisher: Publisher, told: Told
) -> None:
    """Because the destination was deleted, or the output cannot be read."""
    publisher.put(PublishOutput(JOB, 1, "1.0", "out", [], b"one\n"))
    refused = told.wait(1)[0]
    assert isinstance(refused, PublicationRefused)
    assert (refused.job, refused.epoch, refused.task, refused.error.code) == (JOB, 1, "1.0", NotFound.code)
    store.put_bytes("out", b"")
    store.fail("read", Corrupt("damaged"))
    publisher.put(PublishOutput(JOB, 2, "1.0", "out", [("segments", 0, 5)], None))
    assert told.wait(2)[1].error.code == Corrupt.code


def test_a_full_queue_drops_work_that_the_leader_asks_for_again(store: MemoryStore, told: Told) -> None:
    """The core that submits it is never blocked."""
    segments = SegmentWriter(store.storage(), "n1-a", told.append)
    publisher = Publisher(store.storage(), told.append)
    for number in range(writers.QUEUE_MAX + 1):
        segments.put(AppendSegments(JOB, 1, number, [b"x"]))
        publisher.put(PublishOutput(JOB, number, "1.0", "out", [], b""))
    assert segments._worker.waiting == publisher._worker.waiting == writers.QUEUE_MAX
    segments.stop(1.0)
    publisher.stop(1.0)
    assert told == []
