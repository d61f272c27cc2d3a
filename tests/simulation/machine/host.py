"""A simulated machine with an address and a disk, the processes on it, and the agents of a node."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from agent.common.config import NodeConfig
from agent.common.shell import threads
from tests.simulation.machine.children import Program, SimChild, SimProcesses
from tests.simulation.machine.disk import Call, MachineDisk
from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.platform import EPOCH_S
from tests.simulation.machine.process import Process

if TYPE_CHECKING:
    from tests.simulation.machine.cluster import Cluster

STOP_TIMEOUT_S = 5.0
# How long systemd waits before it restarts a failed agent (RestartSec in roles/common).
RESTART_S = 1.0
# How long a disk takes to make something durable.
SYNC_S_MIN, SYNC_S_MAX = 0.0002, 0.002
SYNCS = ("fsync", "fdatasync")
FIRST_PID = 100


class Service(Protocol):
    """The interface of an agent to the process that runs it."""

    def start(self) -> None: ...

    def stop(self, timeout_s: float) -> None: ...


Factory = Callable[[NodeConfig, Callable[[BaseException], None]], Service]


class Machine:
    """An address, a disk and processes."""

    def __init__(self, cluster: Cluster, name: str, address: str) -> None:
        self.cluster = cluster
        self.scheduler = cluster.scheduler
        self.name = name
        self.address = address
        # The error of the wall clock.
        self.wall_offset_s = 0.0
        self.is_on = True
        # The programs that the commands of its processes start.
        self.program: Program = _no_program
        self.processes: list[Process] = []
        self._pids = itertools.count(FIRST_PID)
        self.disk = self._empty_disk()

    def process(self, name: str) -> Process:
        """Returns a new process with the machine's network, disk and programs."""
        made = self.scheduler.process(f"{self.name}/{name}")
        files = self.disk.process(name)
        sockets = SimNetwork(self.cluster.wires, made, self.address)
        children = SimProcesses(sockets, next(self._pids), lambda *start: self.program(*start))
        made.equip(network=sockets, disk=files, processes=children)
        made.on_kill.append(files.kill)
        made.wall_offset_s = self.wall_offset_s
        self.processes = [each for each in self.processes if not each.dead] + [made]
        return made

    def install(self, path: str, text: str) -> None:
        """Puts a file on the disk, durably, as the deployment does."""
        folder = ""
        for name in path.split("/")[1:-1]:
            folder += f"/{name}"
            if name not in self.disk.parent(folder)[0].entries:
                self.disk.make_folder(folder, 0o755)
        self.disk.write(self.disk.create(path, 0o600), text.encode(), 0)
        self.disk.crash("everything")

    def power_off(self, keep: str = "some") -> None:
        """Cuts the power: processes end silently; the disk keeps ``keep`` of the changes not yet synced."""
        self.is_on = False
        self.cluster.wires.lose_power(self.address)
        for process in self.processes:
            self.scheduler.kill(process)
        self.processes = []
        self.disk.crash(keep)

    def power_on(self) -> None:
        """Restores the power."""
        self.is_on = True
        self.cluster.wires.restore_power(self.address)

    def replace_disk(self) -> None:
        """Replaces the disk by an empty one, set up like the first one; the power is off."""
        assert not self.is_on
        self.disk = self._empty_disk()
        self.cluster.set_up(self)

    def pause(self) -> None:
        """Stops all processes, as SIGSTOP does, or as if the virtual machine got no processor."""
        for process in self.processes:
            self.scheduler.pause(process)

    def resume(self) -> None:
        """Lets paused processes continue."""
        for process in self.processes:
            if process.paused and not process.dead:
                self.scheduler.resume(process)

    def set_clock(self, offset_s: float) -> None:
        """Sets the wall clock."""
        self.wall_offset_s = offset_s
        for process in self.processes:
            process.wall_offset_s = offset_s

    def _empty_disk(self) -> MachineDisk:
        chance = random.Random(self.cluster.random.getrandbits(64))
        made = MachineDisk(chance, wall=self._wall)
        made.on_call = self._on_disk
        return made

    def _wall(self) -> float:
        return EPOCH_S + self.scheduler.now + self.wall_offset_s

    def _on_disk(self, call: Call) -> None:
        if call.name in SYNCS and self.scheduler.running is not None:
            threads.sleep(self.disk.rng.uniform(SYNC_S_MIN, SYNC_S_MAX))
        else:
            self.scheduler.point()


def _no_program(child: SimChild, command: Sequence[str], inherited: list[Any]) -> None:
    raise AssertionError(f"no program is registered for {command}")


class Node(Machine):
    """A machine with agents."""

    def __init__(self, cluster: Cluster, name: str, address: str, config: NodeConfig) -> None:
        self.config = config
        self.agents: dict[str, Agent] = {}
        super().__init__(cluster, name, address)

    def start(self, service: str) -> Agent:
        """Starts an agent that is not running."""
        before = self.agents.get(service)
        assert before is None or not before.is_running, f"{before} runs already"
        made = self.agents[service] = Agent(self, service, self.cluster.factories[service])
        return made

    def kill(self, service: str) -> None:
        """Ends an agent as SIGKILL does."""
        self.scheduler.kill(self.agents[service].process)

    def stop(self, service: str) -> None:
        """Asks an agent to stop, as SIGTERM does."""
        self.agents[service].stop()

    def start_all(self) -> None:
        """Restores the power if necessary, and starts the agents that are not running."""
        if not self.is_on:
            self.power_on()
        for service in self.cluster.factories:
            agent = self.agents.get(service)
            if agent is None or not agent.is_running:
                self.start(service)


class Agent:
    """One life of an agent: the real service in a simulated process, as ``agent.__main__`` runs it.

    A crash, or a thread that an exception ended, ends the process; as systemd would, the machine starts it
    again after a second.
    """

    def __init__(self, node: Node, name: str, build: Factory) -> None:
        self.node = node
        self.name = name
        self.service: Service | None = None
        self.is_ready = False
        self.process = node.process(name)
        self._build = build
        self.is_asked_to_stop = False
        # Whether the process stays after an orderly stop, so that a check can see what it leaves behind.
        self.stays = False
        self._problem = ""
        self._ended = self.process.seam.threads.event()
        self.process.start("main", self._main)

    @property
    def is_running(self) -> bool:
        """Tells whether the process lives."""
        return not (self.process.dead or self.process.stopped)

    def stop(self) -> None:
        """Asks the agent to stop."""
        self.is_asked_to_stop = True
        self._ended.set()

    def _main(self) -> None:
        threads.on_death(lambda thread, error: self._fail(f"thread {thread} died: {error!r}"))
        try:
            self._serve()
        except Exception as error:
            self._fail(repr(error))
        self.is_ready = False
        if self.stays and not self._problem:
            self.process.stopped = True
            return
        self.node.cluster.ended(self, self._problem)
        self.node.scheduler.kill(self.process)

    def _serve(self) -> None:
        service = self.service = self._build(self.node.config, lambda error: self._fail(repr(error)))
        try:
            service.start()
            self.is_ready = True
            self._ended.wait()
        finally:
            self.is_ready = False
            service.stop(STOP_TIMEOUT_S)

    def _fail(self, problem: str) -> None:
        if not self._ended.is_set():  # after the end, things that a thread uses may be closed already
            self._problem = self._problem or problem
            self._ended.set()

    def __repr__(self) -> str:
        return self.process.name
