"""This machine: its processes, control groups, ports, memory and lock files."""
