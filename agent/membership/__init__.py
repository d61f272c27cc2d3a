"""Who is alive (SWIM with Lifeguard, or gossip heartbeats), and the agreed view that says who counts.

``core/`` holds the protocol without input or output: ``beliefs`` (the member table, suspicion, gossip),
``detectors`` behind one interface, ``dissemination`` (datagrams, table exchange), ``monitor`` (all of these
for one node), ``view`` and ``proposer`` (what the register of ``agent.common.register`` holds), and
``node``, which joins them. ``shell/`` holds sockets, threads and files. The vocabulary of both lies here:
``member``, ``view``, ``settings``, ``datagrams`` (UDP) and ``messages`` (requests, records).
"""
