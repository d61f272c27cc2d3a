"""Hostile input: any input is refused with a code, or is valid; nothing else may happen."""
