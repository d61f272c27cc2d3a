"""The kernel's limit of inotify instances, which all VMs share, and of which every systemd needs several.

Debian's default of 128 is enough for some twenty VMs in all labs of the machine together; with more, VMs
stall while booting. The first lab raises the limit, and the last one that ends restores it.
"""

from __future__ import annotations

from pathlib import Path

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 1024


def allow(folder: Path) -> None:
    """Raises the limit, and stores the previous value in ``folder``, which all labs share."""
    before = int(LIMIT.read_text("ascii"))
    if before >= ENOUGH:
        return
    kept = folder / "inotify"
    if not kept.exists():
        kept.write_text(f"{before}\n", "ascii")
    LIMIT.write_text(f"{ENOUGH}\n", "ascii")


def restore(folder: Path) -> None:
    """Restores the limit if no lab is left in ``folder``."""
    kept = folder / "inotify"
    if kept.exists() and list(folder.iterdir()) == [kept]:
        LIMIT.write_text(kept.read_text("ascii"), "ascii")
        kept.unlink()
