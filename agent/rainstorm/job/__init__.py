"""What a job is: its file, its plan, its key groups and where its tasks are placed. No input or output."""
