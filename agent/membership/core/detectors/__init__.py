"""Failure detectors: SWIM probes and gossip heartbeats, and what both share."""
