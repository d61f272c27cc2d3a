"""The kernel's limit of inotify instances: every systemd takes several, and all VMs share one allowance.

Debian's 128 are enough for some twenty VMs, all labs of the machine together; beyond that VMs hang while they
boot. The first lab raises the limit and the last one that ends restores it.
"""

from __future__ import annotations

from pathlib import Path

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 1024


def allow(folder: Path) -> None:
    """Raises the limit; what it was is kept in ``folder``, which all labs share."""
    before = int(LIMIT.read_text("ascii"))
    if before >= ENOUGH:
        return
    kept = folder / "inotify"
    if not kept.exists():
        kept.write_text(f"{before}\n", "ascii")
    LIMIT.write_text(f"{ENOUGH}\n", "ascii")


def restore(folder: Path) -> None:
    """Restores the limit when no lab is left in ``folder``."""
    kept = folder / "inotify"
    if kept.exists() and list(folder.iterdir()) == [kept]:
        LIMIT.write_text(kept.read_text("ascii"), "ascii")
        kept.unlink()
