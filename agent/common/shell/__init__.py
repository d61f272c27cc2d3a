"""The shells that all subsystems share: clocks, threads, network, disk, and what is built on them."""
