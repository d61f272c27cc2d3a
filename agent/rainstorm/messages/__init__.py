"""The messages between the parts of the stream engine, and their records: one module for each direction."""
