"""Finds the segment files of a job that are no longer needed (a core).

Agents write the state and output of epochs to numbered files of their own, and start a new file when the
current one has become large. A file is deleted when it holds no committed state and no unpublished output and
its writer has started a later one. So the space of a job in HyDFS depends on its state, not on its run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.rainstorm.job.segment import Reference
from agent.rainstorm.leader.core.joblog import JobState

# The output of one task and epoch: epoch, task, and its place.
Output = tuple[int, str, tuple[Reference, ...]]


class SegmentFiles:
    """The segment files that a leader has seen in acknowledgements."""

    def __init__(self) -> None:
        self._files: dict[str, None] = {}

    def unused(self, state: JobState, written: Iterable[str], confirmed: Sequence[Output] = ()) -> list[str]:
        """Returns the files that are no longer needed, each once.

        Args:
            state: the committed state.
            written: the files that the last epoch was written to.
            confirmed: output that is published, but not yet recorded so in the log.
        """
        needed = dict.fromkeys(file for references in state.segments.values() for file, _, _ in references)
        for _, _, references in (*state.unpublished, *confirmed):
            needed.update(dict.fromkeys(file for file, _, _ in references))
        self._files.update(dict.fromkeys([*needed, *written]))
        newest: dict[str, str] = {}
        for file in sorted(self._files):
            newest[file.rpartition("-")[0]] = file
        kept = {**needed, **dict.fromkeys(newest.values())}
        over = [file for file in self._files if file not in kept]
        for file in over:
            del self._files[file]
        return over
