"""Disk, threads and network around the store's rules; files of the same name here and in ``core`` pair."""
