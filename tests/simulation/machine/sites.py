"""Names lines of code for reports: where a primitive was made, where a thread is suspended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

_MACHINE = Path(__file__).resolve().parent
_REPOSITORY = _MACHINE.parent.parent.parent
_SEAM = _REPOSITORY / "agent" / "common" / "shell"
# Lines of the simulator's own code say nothing about a fault: reports name the line that called it.
_MACHINERY = (str(_MACHINE) + "/", *(str(_SEAM / f"{name}.py") for name in ("threads", "network", "disk")))
_LIBRARY = ("/concurrent/futures/", "/contextlib.py", "/threading.py", "/queue.py")
_machinery: dict[str, bool] = {}

# A code object and an instruction in it: only a report needs the line.
Site = tuple[CodeType | None, int]
UNKNOWN: Site = (None, 0)


def _is_machinery(file: str) -> bool:
    found = _machinery.get(file)
    if found is None:
        found = _machinery[file] = file.startswith(_MACHINERY) or any(part in file for part in _LIBRARY)
    return found


def standing(frame: FrameType | None) -> Site:
    """Returns the innermost place of a frame outside the simulator's own code."""
    known = _machinery
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not (known[file] if file in known else _is_machinery(file)):
            return code, frame.f_lasti
        frame = frame.f_back
    return UNKNOWN


def caller(depth: int = 1) -> Site:
    """Returns the innermost running place outside the simulator's own code, at least ``depth`` calls up."""
    return standing(sys._getframe(depth))


def describe(site: Site) -> str:
    """Returns ``file:line``; a file of the repository is relative to its root."""
    code, instruction = site
    if code is None:
        return "?"
    file, line = code.co_filename, code.co_firstlineno
    for begin, end, number in code.co_lines():
        if begin <= instruction < end:
            line = number or line
    return f"{file.removeprefix(f'{_REPOSITORY}/')}:{line}"
