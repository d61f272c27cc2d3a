"""What the parts of the stream engine say to each other and write down: one module for each direction."""
