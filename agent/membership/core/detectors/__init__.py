"""Failure detectors (SWIM probes, gossip heartbeats) and attempts to reconnect. No input or output."""
