"""A simulated machine: the threads, sockets and files on which the agents' shells run unchanged."""
