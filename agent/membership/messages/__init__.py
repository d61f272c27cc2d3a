"""The requests to a membership agent over a connection, and its answers.

Datagrams have their own codec (``agent.membership.datagrams``), because they must fit a packet.
"""
