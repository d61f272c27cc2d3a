"""Remembers that this disk may have replaced one with copies that the file table still expects here.

One replica's promise is enough to seal an open block, and a replica that never got a record promises a length
of 0. An emptied disk would do the same for records that it acknowledged. So this node's promises about blocks
that it does not know are doubtful: they count only when every replica has promised (``core.takeover``). This
ends when the node has looked through the whole file table and has had each open block sealed that is placed
here but is not here.

All disks of a cluster that is being founded are new, and its blocks can still be sealed. A mark on the disk
preserves the state over restarts.
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
        """Removes the mark: this node now knows of every block that the file table expects here."""
        try:
            disk.remove_durably(self._mark)
        except OSError as error:
            raise disk.failure(error, f"{self._mark} cannot be removed") from error
        self.pending = False
