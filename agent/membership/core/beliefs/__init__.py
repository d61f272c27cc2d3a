"""One node's beliefs about all members, the reasons for them, and gossip. No input or output."""
