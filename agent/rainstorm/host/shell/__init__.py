"""Threads, processes and files around the host's rules."""
