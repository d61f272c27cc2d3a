"""A test's own loopback addresses, so that real agents of several test processes can run at the same time.

An address with its default ports belongs to one cluster of one process. So two workers of a run do not meet,
nor do two runs on one machine, a user's own cluster (127.0.0.1 and up) or an experiment (127.225.0.1 and up).
"""

from __future__ import annotations

import ipaddress
import itertools
import os

from agent.common.config import PeerConfig

_DEFAULTS = PeerConfig("", "")
MEMBERSHIP_PORT = _DEFAULTS.membership_port
HYDFS_PORT = _DEFAULTS.hydfs_port
FIRST = ipaddress.IPv4Address("127.20.0.0")
# 127.20.0.0 to 127.219.255.255, sixteen addresses per cluster. A process reuses its first block after 64
# clusters, when the first is long gone; processes whose ids differ by less than 12,800 share no block.
BLOCKS = 200 * 2**16 // 16
BLOCKS_A_PROCESS = 64
ADDRESSES_A_BLOCK = 16
_numbers = itertools.count()


def own_addresses() -> list[str]:
    """Returns fifteen consecutive loopback addresses, others at each call."""
    number = os.getpid() * BLOCKS_A_PROCESS + next(_numbers) % BLOCKS_A_PROCESS
    first = FIRST + number % BLOCKS * ADDRESSES_A_BLOCK
    # The last byte is never 0, which some programs take for a network's address.
    return [str(first + offset) for offset in range(1, ADDRESSES_A_BLOCK)]
