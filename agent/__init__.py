"""RainStorm's agents: the small services that turn plain VMs into a stream-processing cluster.

Four services share one package because they share one wire: ``membership`` knows which nodes are alive and
owns the agreed cluster view, ``hydfs`` keeps files on several machines, ``rainstorm`` runs jobs, and ``logs``
searches and collects the node's logs. Each is a separate process (``python -m agent NAME --config FILE``), so
that a busy store never delays a heartbeat.

Imports point down only: ``__main__`` → services and clients → threaded wire → cores → codec → ``common``.
``tests/unit/test_layering.py`` enforces it.
"""

__version__ = "0.1.0"
