"""A node's part in all jobs: its tasks, their snapshots and their publications."""
