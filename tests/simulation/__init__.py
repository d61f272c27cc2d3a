"""Deterministic simulation: the agents' unchanged code on simulated threads, clocks, sockets and disks."""
