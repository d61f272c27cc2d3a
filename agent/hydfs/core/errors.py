"""Errors between store agents: those that clients may see, and a few codes that never leave the store."""

from __future__ import annotations

from typing import Any

from agent.common import errors
from agent.common.errors import RainStormError


class StoreError(RainStormError):
    """An answer between store agents whose code is not an error a client may see."""


def error_of(code: str, message: str, details: dict[str, Any] | None = None) -> RainStormError:
    """Returns an exception with this code, also for the codes that only store agents use."""
    error = errors.from_wire({"code": code, "message": message, "details": details or {}})
    if error.code != code:
        error = StoreError(message, details={"store_code": code, **(details or {})})
    return error


def code_of(error: RainStormError) -> str:
    """Returns the code that ``error_of`` was given."""
    return str(error.details.get("store_code") or error.code)
