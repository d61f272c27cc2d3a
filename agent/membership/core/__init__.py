"""The rules of membership: who is believed alive, and the agreed view. No input or output."""
