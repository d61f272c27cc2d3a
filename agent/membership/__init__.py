"""Who is alive (SWIM with Lifeguard, or gossip heartbeats), and the agreed view that says who counts.

Protocol without input or output: ``table``, ``suspicion``, ``story`` and ``roster`` (beliefs), ``swim`` and
``heartbeat`` with ``probing`` and ``health`` (detectors, behind ``detector``), ``gossip``, ``messages``,
``outbox`` and ``seal`` (datagrams), ``monitor`` (all of these for one node), ``view`` and ``proposer`` (what
the register of ``agent.common.register`` holds), ``services``, ``settings``, ``keyring``, and ``core``, which
joins them. Shells: ``store``, ``transport``, ``eventlog``, ``requests``, ``service``, ``client``,
``attachment``.
"""
