"""The parts that all agents share: errors, ids, configuration, the core contract and its runner."""
