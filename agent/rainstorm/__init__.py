"""RainStorm: the stream engine, exactly once by short aligned epochs (DESIGN 7, ADR 0004)."""
