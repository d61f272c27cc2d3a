"""Names lines of code for reports: where a primitive was made, where a thread stands."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

_MACHINE = Path(__file__).resolve().parent
_REPOSITORY = _MACHINE.parent.parent.parent
_SEAM = _REPOSITORY / "agent" / "common" / "shell"
# Lines of the machinery say nothing about the fault: reports name the line that called it.
_MACHINERY = (str(_MACHINE) + "/", *(str(_SEAM / f"{name}.py") for name in ("threads", "network", "disk")))
_LIBRARY = ("/concurrent/futures/", "/contextlib.py", "/threading.py", "/queue.py")
_machinery: dict[str, bool] = {}

# The code and the instruction in it: only a report needs to know which line that is.
Site = tuple[CodeType | None, int]
UNKNOWN: Site = (None, 0)


def _is_machinery(file: str) -> bool:
    found = _machinery.get(file)
    if found is None:
        found = _machinery[file] = file.startswith(_MACHINERY) or any(part in file for part in _LIBRARY)
    return found


def standing(frame: FrameType | None) -> Site:
    """Returns the place outside the machinery at which a frame stands."""
    known = _machinery
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not (known[file] if file in known else _is_machinery(file)):
            return code, frame.f_lasti
        frame = frame.f_back
    return UNKNOWN


def caller(depth: int = 1) -> Site:
    """Returns the place outside the machinery that is being executed, ``depth`` calls up or further."""
    return standing(sys._getframe(depth))


def describe(site: Site) -> str:
    """Returns ``file:line``, from the root of the repository where it lies in it."""
    code, instruction = site
    if code is None:
        return "?"
    file, line = code.co_filename, code.co_firstlineno
    for begin, end, number in code.co_lines():
        if begin <= instruction < end:
            line = number or line
    return f"{file.removeprefix(f'{_REPOSITORY}/')}:{line}"
