"""Hostile input: whatever is sent, it is refused with a code or it is valid; nothing else may happen."""
