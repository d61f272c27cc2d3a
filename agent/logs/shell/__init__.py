"""Files, threads and processes around the logs agent's decisions."""
