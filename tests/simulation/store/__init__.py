"""The store agents as they are, on simulated machines: schedules, what clients saw, and the checks."""
