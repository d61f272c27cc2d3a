"""The demo: its input, its faults, its report, and the sequential program that it is compared with."""
