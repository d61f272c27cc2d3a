"""Whether this disk may have replaced one that held copies which the file table still expects here.

To seal an open block one replica's word is enough, and a replica that never got a record says "nothing". A
disk that was emptied would say so of records that it acknowledged. So until the whole file table was looked
through, and each open block that it places here and that is not here was sealed by others, this node promises
nothing about blocks that it does not know. A mark on the disk keeps that over restarts.
"""

from __future__ import annotations

from pathlib import Path

from agent.common.errors import Unavailable
from agent.common.shell import disk


class NewDisk:
    """The mark of a store folder that was found empty."""

    def __init__(self, root: Path, node: str) -> None:
        """Marks ``root`` if there is no store in it; call this before one is made.

        Raises:
            DiskFull, DiskFailed: the mark cannot be written.
        """
        self._mark = root / "new"
        self._node = node
        try:
            if not disk.exists(root / "journal"):
                disk.create_durably(self._mark)
            self.pending = disk.exists(self._mark)
        except OSError as error:
            raise disk.failure(error, f"{self._mark} cannot be written") from error

    def refuse_unknown(self, name: str, number: int) -> None:
        """Refuses a promise about a block that is not here.

        Raises:
            Unavailable: this disk may have replaced one that held the block.
        """
        if self.pending:
            raise Unavailable(
                f"{self._node} cannot speak for block {number} of {name!r}: its disk is new",
                hint="wait until it has looked through the file table: fab verify --wait 60",
            )

    def settle(self) -> None:
        """Takes the mark away: nothing that the file table expects here is missing unknown."""
        try:
            disk.remove_durably(self._mark)
        except OSError as error:
            raise disk.failure(error, f"{self._mark} cannot be removed") from error
        self.pending = False
