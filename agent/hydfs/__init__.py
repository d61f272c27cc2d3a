"""HyDFS: a replicated append store: files are chains of blocks, each record is on three disks."""
