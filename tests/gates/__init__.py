"""The gates of ``make``: the coverage of each room, and mutants that tests must kill."""
