"""Disk, threads and network around the store's rules; files named as in ``core`` where they pair."""
