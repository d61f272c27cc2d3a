"""The mutants of each subsystem: lines that safety depends on, each changed so that it breaks its rule."""
