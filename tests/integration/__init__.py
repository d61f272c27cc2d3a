"""Real agent processes on the loopback addresses."""
