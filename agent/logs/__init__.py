"""The logs agent: search, follow and collect the logs of one node."""
