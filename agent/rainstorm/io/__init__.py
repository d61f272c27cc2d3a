"""How leader, hosts and tasks reach HyDFS and each other over the wire."""
