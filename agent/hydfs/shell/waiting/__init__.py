"""Places where requests wait: for the core, or for another request about the same file."""
