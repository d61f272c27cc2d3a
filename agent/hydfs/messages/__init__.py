"""What is said to a store agent, by clients and by other store agents, and what it answers.

What is kept on a disk is defined beside its rules: journal entries in ``core.block``, the values of the file
table in ``core.filetable``. Both are parts of these messages.
"""
