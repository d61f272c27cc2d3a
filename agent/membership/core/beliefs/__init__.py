"""What one node believes of all members, why, and what of it is passed on. No input or output."""
