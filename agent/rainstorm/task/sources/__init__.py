"""How a task reads its splits. No input or output."""
