"""Storing whole files: the puts that this agent is the gateway of, and the sending of their blocks."""
