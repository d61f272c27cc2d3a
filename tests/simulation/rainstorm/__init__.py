"""The stream engine in the simulator: its real agents, tasks and clients among models of what surrounds it."""
