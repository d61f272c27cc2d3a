"""Who is alive (SWIM with Lifeguard), and the agreed view that says who counts (a CASPaxos register).

``table``, ``suspicion``, ``gossip``, ``health``, ``messages``, ``probing``, ``swim``, ``view``, ``proposer``
and ``core`` are protocol without input or output; ``identity``, ``transport``, ``service`` and ``client`` are
the shells.
"""
