"""What to search, follow and collect: decisions without input or output."""
