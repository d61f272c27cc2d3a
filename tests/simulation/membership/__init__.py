"""Membership agents in the simulator: a cluster, its neighbours and clients, faults, checks."""
