"""Searching, following and merging the logs of all nodes."""
