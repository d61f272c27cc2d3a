"""The replicated register as it is, on simulated machines: voters, proposers, and a history to check."""
