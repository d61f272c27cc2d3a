"""Failure detection (SWIM with Lifeguard, or gossip heartbeats), and the agreed view of the cluster.

``core/`` holds the protocol without input or output: ``beliefs`` (the member table, suspicion, gossip),
``detectors`` behind one interface, ``dissemination`` (datagrams, table exchange), ``monitor`` (all of these
for one node), ``view`` and ``proposer`` (what the register of ``agent.common.register`` holds), and
``node``, which joins them. ``shell/`` holds sockets, threads and files. The vocabulary of both is here:
``member``, ``view``, ``settings``, ``datagrams`` (UDP) and ``messages`` (requests, records).
"""
