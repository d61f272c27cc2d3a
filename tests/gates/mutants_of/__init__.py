"""The mutants of each subsystem: lines on which safety rests, each changed so that its rule is broken."""
