"""Nodes with the small agent, and the processes that call it."""

from __future__ import annotations

from collections import Counter

from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.host import Machine
from tests.simulation.machine.process import Process
from tests.simulation.machine.wires import Quality
from tests.simulation.wire.agent import CONTENT, FILE, WIRE, WireAgent
from tests.simulation.wire.callers import Caller

# Far above the need of any schedule: a run with more steps has a spinning loop.
STEPS_MAX = 600_000
STALL_S_MAX = 0.02
VIOLATIONS_MAX = 10
REMOTE_CALLERS = 2


class WireCluster(Cluster):
    """One or more agents, local callers and remote ones."""

    def __init__(
        self, seed: int | str, size: int, *, quality: Quality | None = None, stalls: float = 0.0
    ) -> None:
        self.violations: list[str] = []
        self.hits: Counter[str] = Counter()
        # The processes of hostile peers.
        self.strangers: list[Process] = []
        # The time that suspended threads may add to each call.
        self.stalled_s = 10 * STALL_S_MAX if stalls else 0.0
        super().__init__(
            seed,
            size,
            {WIRE: WireAgent},
            quality=quality,
            steps_max=STEPS_MAX,
            stall_chance=stalls,
            stall_s_max=STALL_S_MAX,
        )
        names = list(self.nodes)
        self.callers = [Caller(self, node, names, 2) for node in self.nodes.values()]
        self.callers += [Caller(self, self.machine(f"caller{n}"), names, 4) for n in range(REMOTE_CALLERS)]

    def set_up(self, machine: Machine) -> None:
        """Puts the file on a disk, in addition to the certificates."""
        super().set_up(machine)
        machine.install(FILE, CONTENT.decode())

    def require(self, holds: object, violation: str) -> None:
        """Notes a violation unless ``holds``."""
        if not holds and len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(violation)

    def run_for(self, seconds: float) -> None:
        """Runs for a time; fails if there are violations."""
        self.scheduler.run_for(seconds)
        self.check(self.violations)

    @property
    def refused(self) -> int:
        """Returns how many connections were refused because there were too many; before ``findings``."""
        return sum(count for (_, line), count in self.log.problems.items() if "too_many" in line)

    def agent(self, name: str) -> WireAgent:
        """Returns the agent of a node."""
        found = self.nodes[name].agents[WIRE].service
        assert isinstance(found, WireAgent)
        return found
