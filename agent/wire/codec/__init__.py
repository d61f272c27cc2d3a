"""The byte formats of frames and of a voter's log, as pure functions."""
