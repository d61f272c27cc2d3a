"""The rules of the store: placement, replication, sealing and repair. No input or output."""
