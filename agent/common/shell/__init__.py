"""What every agent shares and that touches the machine: clocks, threads, log lines, the service manager."""
