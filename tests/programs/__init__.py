"""Tests that run whole programs, but no agents."""
