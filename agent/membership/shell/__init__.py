"""Sockets, threads and files around the membership core."""
