"""A task's rules: alignment of barriers, batches, the chain of operators. No input or output."""
