"""A cluster of plain processes on this machine."""
