"""Threads, job logs and submissions around the leader's rules."""
