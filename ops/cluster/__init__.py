"""The cluster as an operator reaches it: inventory, routes, SSH, connections and status."""
