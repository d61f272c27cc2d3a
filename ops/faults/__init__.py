"""Faults on purpose: planned, recorded, applied, healed."""
