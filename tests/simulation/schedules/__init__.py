"""Schedules that once failed, as the shrinker printed them; every test run replays them."""
