"""What every agent shares: errors, ids, configuration, the core contract and its runner."""
