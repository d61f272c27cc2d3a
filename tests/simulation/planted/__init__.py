"""Rules that are broken on purpose, by subsystem; the simulator must find each."""
