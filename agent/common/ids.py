"""Names and ids: what is allowed, and how they hash.

A file name is 1-255 bytes of UTF-8 without control characters, without empty, ``.`` or ``..`` parts. The name
is never used as a path on disk. Hashes are MurmurHash3 (never Python's ``hash``, which differs between
processes).
"""

from __future__ import annotations

import unicodedata

import mmh3

from agent.common.errors import NameInvalid

FILE_NAME_BYTES_MAX = 255


def check_file_name(name: str) -> str:
    """Returns ``name`` when it may name a HyDFS file.

    Raises:
        NameInvalid: it is empty, too long, not normalised, or holds a control character or a ``..`` part.
    """
    shown = name[:60] + ("…" if len(name) > 60 else "")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise NameInvalid(f"file name {shown!r} is not valid UTF-8", hint="rename the file") from None
    if not name:
        raise NameInvalid("a file name is empty", hint="give the file a name")
    if size > FILE_NAME_BYTES_MAX:
        raise NameInvalid(
            f"file name {shown!r} has {size} bytes, the limit is {FILE_NAME_BYTES_MAX}",
            hint="choose a shorter name",
        )
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise NameInvalid(f"file name {shown!r} holds a control character", hint="remove it")
    if unicodedata.normalize("NFC", name) != name:
        raise NameInvalid(f"file name {shown!r} is not in Unicode NFC form", hint="normalise the name")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise NameInvalid(
                f"file name {shown!r} has an empty, '.' or '..' part", hint="name it like logs/2026/web.csv"
            )
    return name


def token(value: str | bytes) -> int:
    """Returns the position of ``value`` on the ring (Dynamo, section 4.2), 0 <= token < 2^32."""
    return mmh3.hash(value, signed=False)


def ring_id(value: str | bytes) -> str:
    """Returns the position of ``value`` on the ring as eight hexadecimal digits."""
    return f"{token(value):08x}"
