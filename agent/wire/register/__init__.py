"""The replicated registers over the wire: who proposes, who votes, and what a voter remembers."""
