"""How an operator reaches a cluster: inventory, routes, SSH, connections and status."""
