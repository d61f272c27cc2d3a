"""Segment files: a long job keeps only the files that it needs."""

from __future__ import annotations

from agent.rainstorm.job.segment import segment_file
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.segments import SegmentFiles


def _file(writer: str, number: int) -> str:
    return segment_file("j-1", writer, number)


def test_a_file_goes_when_nothing_refers_to_it_and_its_writer_has_moved_on() -> None:
    """Old state that was replaced and output that was published free their file."""
    files = SegmentFiles()
    state = JobState(segments={"1.0": [(_file("vm1", 1), 0, 10)]})
    assert files.unused(state, [_file("vm1", 1), _file("vm2", 1)]) == []
    state.segments["1.0"] = [(_file("vm1", 2), 0, 10)]
    assert files.unused(state, [_file("vm1", 2)]) == [_file("vm1", 1)]
    assert files.unused(state, [_file("vm1", 2)]) == [], "each file is named once"


def test_the_file_that_a_writer_uses_now_stays() -> None:
    """The epoch in flight may be in it, although nothing committed is."""
    files = SegmentFiles()
    assert files.unused(JobState(), [_file("vm1", 1)]) == []
    assert files.unused(JobState(), []) == []


def test_unpublished_output_keeps_its_file() -> None:
    """Another agent may have to publish from it."""
    files = SegmentFiles()
    state = JobState(unpublished=[(3, "1.0", ((_file("vm1", 1), 5, 10),))])
    assert files.unused(state, [_file("vm1", 1), _file("vm1", 2)]) == []
    state.mark_published(3)
    assert files.unused(state, [_file("vm1", 2)]) == [_file("vm1", 1)]


def test_numbers_sort_as_names() -> None:
    """The tenth file of a writer is newer than its ninth."""
    files = SegmentFiles()
    assert files.unused(JobState(), [_file("vm1", 9), _file("vm1", 10)]) == [_file("vm1", 9)]


def test_output_that_only_the_log_calls_unpublished_keeps_its_file() -> None:
    """The next leader would publish it again, and must be able to read it."""
    files = SegmentFiles()
    confirmed = [(3, "1.0", ((_file("vm1", 1), 5, 10),))]
    assert files.unused(JobState(), [_file("vm1", 1), _file("vm1", 2)], confirmed) == []
    assert files.unused(JobState(), [_file("vm1", 2)]) == [_file("vm1", 1)]
