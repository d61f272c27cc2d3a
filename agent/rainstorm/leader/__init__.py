"""The leader of all jobs, on the node that the view names."""
