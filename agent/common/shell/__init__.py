"""The shared parts that touch the machine: clocks, threads, log lines, the service manager."""
