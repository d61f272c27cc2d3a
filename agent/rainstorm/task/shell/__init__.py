"""The task's process: its sockets, its source and its main loop."""
