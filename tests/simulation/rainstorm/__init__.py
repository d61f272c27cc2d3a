"""The stream engine in the simulator: real agents, tasks and clients, with models of everything else."""
