"""Whole blocks between nodes, in pieces: those that arrive here, and those that a put sends out."""
