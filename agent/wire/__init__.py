"""How agents talk: frames, authenticated connections, a threaded server and a pooled client."""
