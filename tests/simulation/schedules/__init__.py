"""Schedules that once failed, as the shrinker printed them: they are replayed with every test run."""
