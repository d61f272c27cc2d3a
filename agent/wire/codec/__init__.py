"""The bytes of frames and of a voter's log: pure functions, used by cores and by the simulator."""
