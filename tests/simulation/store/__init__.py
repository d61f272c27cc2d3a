"""The unchanged store agents on simulated machines: schedules, the history of clients, and the checks."""
