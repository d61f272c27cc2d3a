"""RainStorm's agents: the small services that turn plain VMs into a stream-processing cluster.

Three services share one package because they share one wire: ``membership`` knows who is alive and owns the
agreed cluster view, ``hydfs`` keeps files on several machines, ``rainstorm`` runs jobs. Each is a process of
its own (``python -m agent NAME --config FILE``), so that a busy store never delays a heartbeat.

Imports point down only: ``__main__`` → services and clients → threaded wire → cores → codec → ``common``.
``tests/unit/test_layering.py`` enforces it.
"""

__version__ = "0.1.0"
