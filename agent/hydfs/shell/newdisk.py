"""Whether this disk may have replaced one that held copies which the file table still expects here.

To seal an open block one replica's word is enough, and a replica that never got a record says "nothing". A
disk that was emptied would say so of records that it acknowledged. So until the whole file table was looked
through, and each open block that it places here and that is not here was sealed, this node's promises
about blocks that it does not know are doubtful: they count only when every replica has promised
(``core.takeover``).
All disks of a cluster that is being founded are new, and their blocks can be sealed all the same. A mark on
the disk keeps that over restarts.
"""

from __future__ import annotations

from pathlib import Path

from agent.common.shell import disk


class NewDisk:
    """The mark of a store folder that was found empty."""

    def __init__(self, root: Path) -> None:
        """Marks ``root`` if there is no store in it; call this before one is made.

        Raises:
            DiskFull, DiskFailed: the mark cannot be written.
        """
        self._mark = root / "new"
        try:
            if not disk.exists(root / "journal"):
                disk.create_durably(self._mark)
            self.pending = disk.exists(self._mark)
        except OSError as error:
            raise disk.failure(error, f"{self._mark} cannot be written") from error

    def settle(self) -> None:
        """Takes the mark away: nothing that the file table expects here is missing unknown."""
        try:
            disk.remove_durably(self._mark)
        except OSError as error:
            raise disk.failure(error, f"{self._mark} cannot be removed") from error
        self.pending = False
