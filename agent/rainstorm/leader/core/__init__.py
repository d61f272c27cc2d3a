"""The leader's rules: epochs, commits, recovery, publication. No input or output."""
