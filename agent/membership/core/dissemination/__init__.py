"""How beliefs spread: gossip on datagrams, sealed and opened, and the exchange of whole tables."""
