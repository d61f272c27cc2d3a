"""A simulated machine under the unchanged shells: threads, clocks, sockets and disks from one seed."""
