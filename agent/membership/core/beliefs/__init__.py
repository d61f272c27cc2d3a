"""What one node believes of all members: the table, accusations, and attempts to reconnect."""
