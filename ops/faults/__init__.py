"""Faults on purpose: planned, written down in a journal, put into force, healed."""
