"""What is asked of a membership agent over a connection, and what it answers.

Datagrams have a codec of their own (``agent.membership.datagrams``), because they must fit a packet.
"""
