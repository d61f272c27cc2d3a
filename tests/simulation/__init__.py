"""Deterministic simulation: the cores and the codec of the agents, without sockets, threads or clocks."""
