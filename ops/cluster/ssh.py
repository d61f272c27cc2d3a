"""SSH to the machines of a cluster: channels to the agents' ports, and commands.

Each machine has one session, which is opened on first use and shared by several threads. Host keys must be
known. Because fabric and paramiko would accept any key, the session is opened with paramiko and the
known_hosts files of the inventory, and then passed to fabric's ``Connection``, which runs commands.

A channel is not a socket, but TLS needs one. So ``dial`` returns one end of a socket pair, and two threads
copy bytes between its other end and the channel. They end when either side closes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.common.deadline import Deadline
from agent.common.errors import (
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    HostKeyChanged,
    HostKeyUnknown,
    RainStormError,
    SshRefused,
    SshUnreachable,
    Unreachable,
)
from agent.common.shell import clock
from agent.wire.client import Address
from ops.cluster.sshlogin import PORT, Login

if TYPE_CHECKING:
    import paramiko

# Our errors report what goes wrong; without a handler paramiko would print it as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

CONNECT_TIMEOUT_S = 5.0
# An overloaded sshd may be slow to start a process for a session.
CHANNEL_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 30.0
# Long-running commands (--watch, --follow) must survive firewalls that drop idle connections.
KEEPALIVE_S = 15
# The services of one machine are queried at the same time; the result of one attempt holds for all.
FAILURE_KEPT_S = 1.0
PIECE_BYTES = 64 * 1024
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The outcome of a command on a machine."""

    status: int
    out: str
    err: str


class _Session:
    """One machine's session, or why there is none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: paramiko.SSHClient | None = None
        self.failure: RainStormError | None = None
        self.failed_at = 0.0


class Ssh:
    """The sessions of one operator; close it after use."""

    def __init__(self, logins: Mapping[str, Login]) -> None:
        self._logins = dict(logins)
        self._sessions = {node: _Session() for node in logins}
        self._pumps: list[threading.Thread] = []
        self._lock = threading.Lock()

    def open(self, node: str) -> paramiko.Transport:
        """Returns the session of a machine, which is opened if necessary.

        Raises:
            HostKeyUnknown, HostKeyChanged: its host key is not the known one.
            SshRefused: it rejects the login.
            SshUnreachable: it does not answer.
        """
        session = self._sessions[node]
        with session.lock:
            transport = session.client.get_transport() if session.client is not None else None
            if transport is not None and transport.is_active():
                return transport
            if session.failure is not None and clock.monotonic() - session.failed_at < FAILURE_KEPT_S:
                raise session.failure
            try:
                session.client = _connect(self._logins[node])
            except RainStormError as error:
                session.failure, session.failed_at = error, clock.monotonic()
                raise
            opened = session.client.get_transport()
            assert opened is not None
            opened.set_keepalive(KEEPALIVE_S)
            return opened

    def dial(self, address: Address, timeout_s: float) -> socket.socket:
        """Returns a socket to an agent's port, connected from the agent's own machine.

        Raises:
            Unreachable: no process listens there.
            RainStormError: as for ``open``.
        """
        import paramiko

        deadline = Deadline(clock.monotonic(), timeout_s)
        transport = self.open(address.node)
        left = max(deadline.remaining(clock.monotonic()), 0.1)
        try:
            channel = transport.open_channel(
                "direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=left
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Unreachable(
                f"cannot connect to {address} from its own machine: {_words(error)}",
                hint="is the agent up? try: fab status",
            ) from None
        ours, theirs = socket.socketpair()
        self._pump(address.node, theirs, channel)
        return ours

    def run(
        self, node: str, command: Sequence[str], *, timeout_s: float = COMMAND_TIMEOUT_S, root: bool = False
    ) -> Finished:
        """Runs a command on a machine and returns its outcome; ``root`` uses ``sudo`` if necessary.

        Raises:
            DeadlineExceeded: it has not ended within ``timeout_s``.
            ConnectionLost: the session broke; the command may or may not have run.
            RainStormError: as for ``open``.
        """
        import fabric
        import paramiko
        from invoke.exceptions import CommandTimedOut, ThreadException

        login = self._logins[node]
        words = ["sudo", "-n", *command] if root and login.user != "root" else list(command)
        transport = self.open(node)
        connection = fabric.Connection(login.host, user=login.user, port=login.port)
        connection.client, connection.transport = self._sessions[node].client, transport
        try:
            done = connection.run(
                shlex.join(words), hide=True, warn=True, in_stream=False, timeout=timeout_s, env={}
            )
        except CommandTimedOut:
            raise DeadlineExceeded(
                f"{shlex.join(command)} on {node} has not ended after {timeout_s:g} s",
                hint=f"log in and check: {login.command()}",
            ) from None
        except (paramiko.SSHException, OSError, EOFError, ThreadException) as error:
            raise _broken(login, command, _words(error)) from None
        if done.exited < 0:
            raise _broken(login, command, "no exit status was received")
        return Finished(done.exited, done.stdout, done.stderr)

    def login(self, node: str) -> Login:
        """Returns how to log in to a machine."""
        return self._logins[node]

    def close(self) -> None:
        """Closes all sessions; the threads end with them."""
        for session in self._sessions.values():
            with session.lock:
                if session.client is not None:
                    session.client.close()
                    session.client = None
        deadline = Deadline(clock.monotonic(), CLOSE_TIMEOUT_S)
        for thread in self._pumps:
            thread.join(deadline.remaining(clock.monotonic()))

    def _pump(self, node: str, sock: socket.socket, channel: paramiko.Channel) -> None:
        up = threading.Thread(target=_up, args=(sock, channel), name=f"ssh-up-{node}", daemon=True)
        down = threading.Thread(target=_down, args=(sock, channel, up), name=f"ssh-down-{node}", daemon=True)
        with self._lock:
            self._pumps = [thread for thread in self._pumps if thread.is_alive()]
            self._pumps += [up, down]
        up.start()
        down.start()


def _up(sock: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := sock.recv(PIECE_BYTES):
            channel.sendall(data)
    with contextlib.suppress(OSError, EOFError):  # the session may already be closed
        channel.close()


def _down(sock: socket.socket, channel: paramiko.Channel, up: threading.Thread) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := channel.recv(PIECE_BYTES):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # wakes the other thread
    up.join()
    sock.close()


def _broken(login: Login, command: Sequence[str], reason: str) -> ConnectionLost:
    return ConnectionLost(
        f"the SSH session to {login.node} broke while {shlex.join(command)!r} ran: {reason}",
        hint=f"is the machine healthy? try: {login.command()} uptime",
    )


def _connect(login: Login) -> paramiko.SSHClient:
    import paramiko

    if login.key and not os.path.exists(login.key):
        raise ConfigError(
            f"{login.node}: there is no key file {login.key}",
            hint="correct ansible_ssh_private_key_file in the inventory",
        )
    client = paramiko.SSHClient()
    for path in login.known_hosts:
        with contextlib.suppress(FileNotFoundError):
            client.get_host_keys().load(path)
    client.set_missing_host_key_policy(_policy(login))
    try:
        client.connect(
            login.host,
            login.port,
            login.user,
            key_filename=login.key,
            look_for_keys=login.key is None,
            allow_agent=login.others,
            timeout=CONNECT_TIMEOUT_S,
            banner_timeout=CONNECT_TIMEOUT_S,
            auth_timeout=CONNECT_TIMEOUT_S,
            channel_timeout=CHANNEL_TIMEOUT_S,
        )
    except (paramiko.SSHException, OSError, EOFError, RainStormError) as error:
        client.close()
        raise _explain(login, error) from None
    return client


def _policy(login: Login) -> paramiko.MissingHostKeyPolicy:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):
        """Rejects every key that is not known."""

        def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
            file, port = login.known_hosts[0], f"-p {login.port} " if login.port != PORT else ""
            raise HostKeyUnknown(
                f"{login.node} ({login.host}): its host key {key.fingerprint} is not in {file}",
                hint=f"compare it with the machine's own, then: ssh-keyscan {port}{login.host} >> {file}",
            )

    return Refuse()


def _explain(login: Login, error: Exception) -> RainStormError:
    import paramiko

    if isinstance(error, RainStormError):
        return error
    who = f"{login.node} ({login.user}@{login.host}:{login.port})"
    if isinstance(error, paramiko.BadHostKeyException):
        name = login.host if login.port == PORT else f"[{login.host}]:{login.port}"
        forget = shlex.join(["ssh-keygen", "-f", login.known_hosts[0], "-R", name])
        return HostKeyChanged(
            f"{who} shows the host key {error.key.fingerprint}, "
            f"but the known key is {error.expected_key.fingerprint}",
            hint=f"only if you know why it changed: {forget}",
        )
    if isinstance(error, paramiko.AuthenticationException):
        shown = f"the key {login.key}" if login.key else "your keys"
        return SshRefused(f"{who} does not accept {shown}", hint=f"see why: {login.command()} true")
    return SshUnreachable(
        f"{who} cannot be reached by SSH: {_words(error)}", hint=f"is it up? try: {login.command()} true"
    )


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (str(error) or type(error).__name__).rstrip(".")
