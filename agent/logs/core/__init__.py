"""Decides what to search, follow and collect, without input or output."""
