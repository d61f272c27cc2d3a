"""The unchanged replicated register on simulated machines: voters, proposers, and a history to check."""
