"""The task launcher: a small process that starts the tasks of a node, reports when they end, and kills them.

User code must not run as the user who owns the keys, and the rainstorm agent has no privilege to change its
user. So the tasks are children of this process, which on real machines is a systemd service with its own user
and slice. It reads no configuration and holds no secret::

    rainstorm-tasks.socket    ListenSequentialPacket=/run/rainstorm/tasks.sock
                              SocketUser=rainstorm  SocketMode=0600
    rainstorm-tasks.service   User=rainstorm-task  Slice=rainstorm-tasks.slice  Type=exec  Restart=no
                              KillMode=control-group  StartLimitIntervalSec=0  PrivateUsers=no
                              ExecStart=/opt/rainstorm/current/bin/python
                                        -m agent.rainstorm.host.shell.launcher
                                        --listen-fd 3 --agent-user rainstorm

systemd starts it when the agent connects; user code can neither reach nor replace the socket. In a local
cluster the agent starts it itself, and only the user differs (``rainstorm.task_launcher`` in the node's
configuration: ``unit`` or ``child``). It serves one connection, only from the agent's user (SO_PEERCRED,
which PrivateUsers would hide), and lives as long as that connection: when the agent is gone, it kills all
tasks and ends, and systemd clears whatever is left in its control group. When the launcher itself dies, the
kernel kills the tasks (PR_SET_PDEATHSIG in ``task.py``).

``agent/rainstorm/messages/launcher.py`` has their messages. A packet that is none ends the connection, and so
the launcher. A task reports its own process id, in its first message to the agent.

A task gets its control socket as standard input, the log as standard output and error, and no other open
file. Nothing but the standard library and those messages is imported here: the process costs 12 MB, and 6 of
them are its own.
"""

from __future__ import annotations

import argparse
import array
import os
import pwd
import resource
import select
import signal
import socket
import struct
import sys

from agent.rainstorm.messages.launcher import (
    FILES_A_SPAWN,
    PACKET_BYTES_MAX,
    KillTask,
    SpawnTask,
    TaskEnded,
    decode_request,
    encode,
)

EX_NOUSER = 67
PEER_CREDENTIALS = struct.Struct("iII")
# A task has a connection to each of its neighbours, a few mapped blocks, and its functions' own files.
OPEN_FILES_MAX = 4096
# When memory runs out, the kernel kills a task before any agent; the largest first, so never the launcher.
OOM_SCORE_ADJ = 500
# Arrow's own threads gain nothing, because every task has its own process.
TASK_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1", "PYTHONUNBUFFERED": "1"}
# User code must not get the variables of a systemd service: a task must not report the service's state.
DROPPED_ENVIRONMENT = frozenset(
    "CREDENTIALS_DIRECTORY INVOCATION_ID JOURNAL_STREAM LISTEN_FDNAMES LISTEN_FDS LISTEN_PID"
    " MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE NOTIFY_SOCKET SYSTEMD_EXEC_PID WATCHDOG_PID"
    " WATCHDOG_USEC".split()
)


def python() -> str:
    """Returns the path of this Python, without links in its folder.

    ``/opt/rainstorm/current`` may point to another release later in the life of this process.
    """
    folder, name = os.path.split(sys.executable)
    return os.path.join(os.path.realpath(folder), name)


class Launcher:
    """The tasks of one agent."""

    def __init__(self, agent: socket.socket) -> None:
        self._agent = agent
        self._poll = select.poll()
        self._poll.register(agent, select.POLLIN)
        # Maps the task number to process id and process descriptor, and back.
        self._tasks: dict[int, tuple[int, int]] = {}
        self._numbers: dict[int, int] = {}
        kept = {name: value for name, value in os.environ.items() if name not in DROPPED_ENVIRONMENT}
        self._environment = {**kept, **TASK_ENVIRONMENT}

    def run(self) -> None:
        """Works until the agent is gone; by then all tasks have ended."""
        try:
            while True:
                for descriptor, _ in self._poll.poll():
                    if descriptor != self._agent.fileno():
                        self._collect(self._numbers[descriptor])
                    elif not self._handle_request():
                        return
        except OSError as error:
            log_event("agent_lost", str(error))
        finally:
            for number in list(self._tasks):
                self._kill(number)
                self._reap(number)

    def _handle_request(self) -> bool:
        """Carries out one request; returns False when the agent has gone, or has sent something else."""
        room = socket.CMSG_SPACE(FILES_A_SPAWN * array.array("i").itemsize)
        # Without the flag every task would keep them open under a second number.
        data, ancillary, _, _ = self._agent.recvmsg(PACKET_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
        files = array.array("i")
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(value)
        try:
            if not data:
                return False
            match decode_request(data):
                case SpawnTask() as request if len(files) == FILES_A_SPAWN:
                    self._spawn(request, *files)
                case SpawnTask():
                    raise ValueError(f"a task needs {FILES_A_SPAWN} files, not {len(files)}")
                case KillTask(number):
                    self._kill(number)
            return True
        except ValueError as error:
            log_event("agent_sent_invalid_message", str(error))
            return False
        finally:
            for descriptor in files:
                os.close(descriptor)

    def _spawn(self, request: SpawnTask, control: int, log: int) -> None:
        command = [python(), "-m", "agent.rainstorm.task.shell.task", "--host", request.host]
        command += ["--hydfs", request.hydfs, "--memory", str(request.memory_bytes)]
        wiring = [(os.POSIX_SPAWN_DUP2, control, 0), (os.POSIX_SPAWN_DUP2, log, 1)]
        wiring += [(os.POSIX_SPAWN_DUP2, log, 2)]
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                self._environment,
                file_actions=wiring,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        except OSError as error:
            self._report_end(request.number, f"cannot be started: {error.strerror}")
            return
        descriptor = os.pidfd_open(pid)
        self._tasks[request.number] = (pid, descriptor)
        self._numbers[descriptor] = request.number
        self._poll.register(descriptor, select.POLLIN)

    def _kill(self, number: int) -> None:
        """Kills a task with the processes that it started; does nothing when it has already ended."""
        if number in self._tasks:
            # Its number cannot mean another group: only this process collects the group's leader.
            os.killpg(self._tasks[number][0], signal.SIGKILL)

    def _collect(self, number: int) -> None:
        """Collects the exit status of a task that has ended, and kills the processes that it left running."""
        self._kill(number)
        status = self._reap(number)
        killed = status < 0
        self._report_end(number, f"killed by signal {-status}" if killed else f"exited with status {status}")

    def _reap(self, number: int) -> int:
        pid, descriptor = self._tasks.pop(number)
        del self._numbers[descriptor]
        self._poll.unregister(descriptor)
        os.close(descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _report_end(self, number: int, cause: str) -> None:
        self._agent.send(encode(TaskEnded(number, cause)))


def log_event(event: str, detail: str) -> None:
    """Writes a line to standard error, whose reader is the journal or the agent's log."""
    sys.stderr.write(f"task launcher: {event} {detail}\n")
    sys.stderr.flush()


def wait_for_agent(listener: socket.socket, uid: int) -> socket.socket:
    """Returns the first connection that a process of user ``uid`` makes; others are closed."""
    while True:
        sock, _ = listener.accept()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        pid, peer, _ = PEER_CREDENTIALS.unpack(credentials)
        if peer == uid:
            return sock
        log_event("connection_refused", f"pid={pid} uid={peer} expected_uid={uid}")
        sock.close()


def limit_tasks() -> None:
    """Sets the limits that this process's children inherit and cannot raise."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES_MAX if files == resource.RLIM_INFINITY else min(files, OPEN_FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    # A dump of a task's memory would hold its job's data and channel key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as score:
        if int(score.read()) < OOM_SCORE_ADJ:  # raising it needs no privilege
            score.seek(0)
            score.write(str(OOM_SCORE_ADJ))


def main() -> int:
    """Runs the launcher and returns its exit status: 0 when the agent is gone, 67 for an unknown user."""
    parser = argparse.ArgumentParser(description="RainStorm task launcher; started by systemd or the agent")
    parser.add_argument("--listen-fd", type=int, required=True, help="the socket to listen on, already open")
    parser.add_argument("--agent-user", help="the user that may connect (default: this process's own user)")
    options = parser.parse_args()
    uid = os.getuid()
    if options.agent_user is not None:
        try:
            uid = pwd.getpwnam(options.agent_user).pw_uid
        except KeyError:
            log_event("no_such_user", f"user={options.agent_user} hint: getent passwd {options.agent_user}")
            return EX_NOUSER
    limit_tasks()
    os.set_inheritable(options.listen_fd, False)
    with socket.socket(fileno=options.listen_fd) as listener:
        agent = wait_for_agent(listener, uid)
    with agent:
        Launcher(agent).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
