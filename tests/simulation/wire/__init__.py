"""The wire in the simulator: real servers and clients, and peers that stall, break off, flood and lie."""
