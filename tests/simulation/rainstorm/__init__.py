"""The stream engine in the simulator: real agents, tasks and clients among models of what they need."""
