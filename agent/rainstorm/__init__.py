"""RainStorm: the stream engine, exactly once by short aligned epochs (ADR 0004)."""
