"""How beliefs travel: datagrams, sealed and opened, and the exchange of whole tables."""
