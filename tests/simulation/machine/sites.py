"""Names lines of code for reports: where a primitive was made, where a thread stands."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

_MACHINE = Path(__file__).resolve().parent
_REPOSITORY = _MACHINE.parent.parent.parent
_SEAM = _REPOSITORY / "agent" / "common" / "shell"
# Lines of the machinery say nothing about the fault: reports name the line that called it.
_MACHINERY = (str(_MACHINE) + "/", *(str(_SEAM / f"{name}.py") for name in ("threads", "network", "disk")))
_LIBRARY = ("/concurrent/futures/", "/contextlib.py", "/threading.py", "/queue.py")
_machinery: dict[str, bool] = {}

Site = tuple[str, int]


def _is_machinery(file: str) -> bool:
    found = _machinery.get(file)
    if found is None:
        found = _machinery[file] = file.startswith(_MACHINERY) or any(part in file for part in _LIBRARY)
    return found


def _first(frame: FrameType | None) -> Site:
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_machinery(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return "?", 0


def caller() -> Site:
    """Returns the line outside the machinery that is being executed."""
    return _first(sys._getframe(1))


def standing(frame: FrameType | None) -> Site:
    """Returns the line outside the machinery at which a suspended frame stands."""
    return _first(frame)


def describe(site: Site) -> str:
    """Returns ``file:line``, from the root of the repository where it lies in it."""
    file, line = site
    return f"{file.removeprefix(f'{_REPOSITORY}/')}:{line}"
