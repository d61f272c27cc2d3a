"""What leader, hosts and tasks reach over the wire: HyDFS and each other."""
