"""How to reach the agents' ports: directly, or through SSH, so that an operator needs nothing else.

``rainstorm_via`` in the inventory is ``direct``, ``ssh`` or ``auto``. ``auto`` tries a direct connection and,
if that fails, SSH. The first success decides for all nodes: once one port was reached directly, a port that
cannot be reached means that its agent is down.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.common.errors import RainStormError
from agent.common.shell.network import Socket
from agent.wire.client import CONNECT_TIMEOUT_S, Address, Dial, dial_tcp
from ops.cluster.ssh import CONNECT_TIMEOUT_S as SSH_TIMEOUT_S
from ops.cluster.ssh import Ssh
from ops.cluster.sshlogin import Login

# A firewall that drops packets costs a command this long before SSH is tried.
DIRECT_TIMEOUT_S = 1.0
PING_TIMEOUT_S = 0.5
SSH_PING_TIMEOUT_S = 2.0


class Route:
    """One operator's route to the agents; close it after use."""

    def __init__(self, via: str, logins: Mapping[str, Login], direct: Dial = dial_tcp) -> None:
        self.ssh = Ssh(logins)
        self._direct = direct
        self._way = via

    @property
    def connect_timeout_s(self) -> float:
        """Returns how long connecting may take at most."""
        return CONNECT_TIMEOUT_S if self._way == "direct" else DIRECT_TIMEOUT_S + SSH_TIMEOUT_S

    @property
    def ping_timeout_s(self) -> float:
        """Returns how long an agent may take to answer once the connection is open."""
        return PING_TIMEOUT_S if self._way == "direct" else SSH_PING_TIMEOUT_S

    def open(self, address: Address) -> None:
        """Opens the route, so that the time limit of a request applies to the agent and not to the route.

        Raises:
            OSError, RainStormError: the agent cannot be reached.
        """
        if self._way == "auto":
            self.dial(address, self.connect_timeout_s).close()
        elif self._way == "ssh":
            self.ssh.open(address.node)

    def dial(self, address: Address, timeout_s: float) -> Socket:
        """Returns a socket to an agent.

        Raises:
            OSError, RainStormError: the agent cannot be reached.
        """
        direct: OSError | None = None
        if self._way == "auto":
            try:
                sock = self._direct(address, min(timeout_s, DIRECT_TIMEOUT_S))
            except OSError as error:
                direct = error
            else:
                self._way = "direct"
                return sock
        if self._way == "direct":  # another thread may have succeeded
            if direct is not None:
                raise direct
            return self._direct(address, timeout_s)
        try:
            sock = self.ssh.dial(address, timeout_s)
        except RainStormError as error:
            if direct is None:
                raise
            raise type(error)(
                f"{address} directly: {str(direct) or 'no answer'}; {error.message}", hint=error.hint
            ) from None
        self._way = "ssh"
        return sock

    def close(self) -> None:
        """Closes the sessions."""
        self.ssh.close()
