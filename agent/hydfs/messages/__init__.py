"""The requests of clients and of other store agents, and their answers.

The formats on disk are defined beside their rules: journal entries in ``core.block``, the values of the file
table in ``core.filetable``. These messages contain both.
"""
