"""The requests of clients and of other store agents, and their answers.

What is kept on disk is defined beside its rules: journal entries in ``core.block``, the values of the file
table in ``core.filetable``. Both are parts of these messages.
"""
