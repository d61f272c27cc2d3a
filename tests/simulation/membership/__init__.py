"""Membership agents under the simulator: a cluster, its neighbours and clients, faults, checks."""
