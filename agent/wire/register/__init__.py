"""The replicated registers over the wire: the proposer, the voter, and the voter's memory."""
