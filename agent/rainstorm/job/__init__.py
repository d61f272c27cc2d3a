"""A job: its file, its plan, its key groups and the placement of its tasks. No input or output."""
