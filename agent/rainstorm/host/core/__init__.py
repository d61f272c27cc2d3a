"""The host's rules. No input or output."""
