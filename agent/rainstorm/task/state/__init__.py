"""The keyed state of operators. No input or output."""
