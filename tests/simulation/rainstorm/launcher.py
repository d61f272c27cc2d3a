"""A model of the task launcher, which starts and ends the task processes of a node.

The real launcher (``agent/rainstorm/host/shell/launcher.py``) is one loop without threads around calls of the
kernel: posix_spawn, process descriptors, process groups, peer credentials. None of these exists here;
``tests/integration/test_task_launcher.py`` runs the real one on the real machine. The model keeps its
protocol and its lifetimes: it serves one connection, ends all tasks when that ends, and its tasks end with
it. It starts the real ``TaskLoop`` in a simulated process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.common.shell import network, threads
from agent.rainstorm.messages.launcher import (
    PACKET_BYTES_MAX,
    SpawnTask,
    TaskEnded,
    ToLauncher,
    decode_request,
    encode,
)
from agent.rainstorm.task.shell.loop import TaskLoop
from tests.simulation.machine.children import SimChild
from tests.simulation.machine.host import Machine
from tests.simulation.machine.kernel import Backlog, StreamEnd
from tests.simulation.machine.tls import SimTls

# The time that Python and the imports of a task take.
START_S_MIN, START_S_MAX = 0.15, 0.35
PAUSE_STEP_S = 0.01
KILLED = "killed by signal 9"


class JobIdentity:
    """The certificate that the tasks of one generation of a job share."""

    def __init__(self, pem: bytes) -> None:
        name = pem.decode()
        self.server: Any = SimTls(name, name, check_hostname=False)
        self.client: Any = self.server


class TaskProcess:
    """One task process, with the ways to break it."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.number = number
        self.machine = machine
        self.process = machine.process(f"task-{number}")
        self.pid: int = self.process.seam.processes.pid
        # The real task once the process has started up.
        self.task: TaskLoop | None = None
        self.cause = KILLED

    @property
    def is_alive(self) -> bool:
        """Tells whether the process runs."""
        return not self.process.dead

    def kill(self) -> None:
        """Ends the process as SIGKILL does."""
        self.machine.scheduler.kill(self.process)

    def say(self, frame: bytes) -> None:
        """Sends the agent a frame that the task itself would never send."""
        if self.task is not None and self.is_alive:
            end: StreamEnd = self.task._control.sock.kernel  # type: ignore[attr-defined]  # a simulated one
            end.force(frame)

    def run(self, start_s: float, control: int, host: str, hydfs_socket: str) -> None:
        """Runs the task; the main thread of the process."""
        threads.sleep(start_s)
        self.task = TaskLoop(network.adopt(control), host, hydfs_socket, JobIdentity)
        self.cause = "exited with status 1"
        self.task.run()
        self.cause = "exited with status 0"


class Launchers:
    """Starts a launcher whenever an agent of the machine asks for one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.program = self.start
        self.tasks: dict[int, TaskProcess] = {}
        self.current: Launcher | None = None

    def start(self, child: SimChild, command: Sequence[str], inherited: list[Any]) -> None:
        """Starts a launcher on the listener that it inherits."""
        assert command[1:3] == ["-m", "agent.rainstorm.host.shell.launcher"], f"unknown program {command}"
        [listener] = inherited
        self.current = Launcher(self, child, listener)

    def alive(self) -> list[TaskProcess]:
        """Returns the task processes that run."""
        return [task for task in self.tasks.values() if task.is_alive]


class Launcher:
    """One launcher process."""

    def __init__(self, owner: Launchers, child: SimChild, listener: Backlog) -> None:
        self._owner = owner
        self._machine = owner.machine
        self._child = child
        self._listener: Backlog | None = listener
        self._agent: StreamEnd | None = None
        self._tasks: dict[int, TaskProcess] = {}
        self._scheduler = owner.machine.scheduler
        self.process = owner.machine.process("launcher")
        self.process.on_kill.append(self._ended)
        child.pid = self.process.seam.processes.pid
        child.on_kill = self.kill
        listener.on_change = self._note
        self._note()

    def kill(self) -> None:
        """Ends the launcher as SIGKILL does."""
        self._scheduler.kill(self.process)

    # -- between the steps ----------------------------------------------------------------------------

    def _note(self) -> None:
        self._scheduler.after(0.0, self._look)

    def _look(self) -> None:
        if self.process.dead:
            return
        if self.process.paused:
            self._scheduler.after(PAUSE_STEP_S, self._look)
            return
        if self._listener is not None and self._listener.is_readable():
            self._take_agent(self._listener)
        while self._agent is not None and self._agent.is_readable():
            try:
                data, files = self._agent.read(PACKET_BYTES_MAX)
            except OSError:
                data, files = b"", []
            if not data:
                self.kill()
                return
            self._obey(decode_request(data), list(files))

    def _take_agent(self, listener: Backlog) -> None:
        self._listener = None
        listener.on_change = None
        try:
            self._agent = listener.accept()
        except OSError:
            self.kill()  # shut down before an agent connected
            return
        self._agent.on_change = self._note
        listener.drop()

    def _obey(self, request: ToLauncher, files: list[Any]) -> None:
        if isinstance(request, SpawnTask):
            self._spawn(request, *files)
        elif request.number in self._tasks:
            self._tasks[request.number].kill()

    def _spawn(self, request: SpawnTask, control: Any, log: Any) -> None:
        number = request.number
        task = TaskProcess(self._machine, number)
        self._tasks[number] = self._owner.tasks[task.pid] = task
        process, sockets = task.process, task.process.seam.network
        process.on_kill.append(lambda: self._collect(number, task))
        descriptor = sockets.take(control)
        sockets.take(log)  # its standard output
        start_s = self._machine.cluster.random.uniform(START_S_MIN, START_S_MAX)
        process.start("main", self._main, task, start_s, descriptor, request.host, request.hydfs)

    def _main(self, task: TaskProcess, *arguments: Any) -> None:
        try:
            task.run(*arguments)
        finally:
            self._scheduler.after(0.0, task.kill)

    def _collect(self, number: int, task: TaskProcess) -> None:
        self._tasks.pop(number, None)
        if self._agent is None or self.process.dead:
            return
        packet = encode(TaskEnded(number, task.cause))
        try:
            self._agent.write(packet, [])
        except OSError:
            self._note()  # the agent has gone

    def _ended(self) -> None:
        for task in list(self._tasks.values()):
            task.kill()  # PR_SET_PDEATHSIG
        for kernel in (self._agent, self._listener):
            if kernel is not None:
                kernel.on_change = None
                kernel.drop()
        self._agent = self._listener = None
        self._child.exited(0)
        if self._owner.current is self:
            self._owner.current = None
