"""All jobs of the cluster, as seen by the node that leads in the current term (a core).

The agreed view names the leader; the term in it is the fencing token. A node that finds itself leader takes
over: the shell appends a term record to the index and to the log of every unfinished job (from then on the
former leader's appends fail), reads them to their ends and passes the resulting states in ``TookOver``.
Every job then begins a new generation from its last committed epoch. A conditional append that is refused
means that another node has taken over: this node steps down at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from agent.common.core import Tick
from agent.common.errors import RainStormError
from agent.common.ids import token
from agent.rainstorm.leader.core.effects import AppendLog, DeleteFiles, JobEnded, Tell
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.messages import commands, reports

# A node that did not answer gets no tasks for this long, or until it sends a report.
EXCLUDE_S = 3.0
# Ended jobs that are kept with all details; the index has a summary of every job.
ENDED_KEPT_MAX = 50
# A killed agent refuses connections at once: frequent pings find it long before its silence would.
PING_S = 0.2


@dataclass(frozen=True, slots=True)
class NodeLife:
    """Whether a node is up, and its current life: a node that comes back with a new boot has another id."""

    node_id: str
    up: bool


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The agreed view has a new version, with the leader, its term, and the nodes."""

    version: int = 0
    term: int = 0
    leader: str = ""
    nodes: Mapping[str, NodeLife] = field(default_factory=dict)

    def up(self) -> list[str]:
        """Returns the nodes that are up."""
        return [name for name, life in self.nodes.items() if life.up]

    def is_up(self, name: str) -> bool:
        """Tells whether a node is up."""
        return name in self.nodes and self.nodes[name].up


@dataclass(frozen=True, slots=True)
class TookOver:
    """The logs are fenced for ``term`` and read to their ends."""

    term: int
    states: Sequence[JobState]


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A new job's log has its first record."""

    state: JobState


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A client wants a job to end."""

    job: str


@dataclass(frozen=True, slots=True)
class ReportReceived:
    """An agent reports something about a job."""

    node: str
    report: reports.Report


@dataclass(frozen=True, slots=True)
class AgentUnreachable:
    """A command could not be delivered to a node's agent."""

    node: str


@dataclass(frozen=True, slots=True)
class LogAppended:
    """Records are durable in a job's log, stamped with the wall-clock time ``at``."""

    job: str
    token: int
    at: float


@dataclass(frozen=True, slots=True)
class LogRejected:
    """A conditional append was refused: this node no longer leads."""

    job: str


@dataclass(frozen=True, slots=True)
class RecordsRefused:
    """Records could not have been read back, so none of them was appended."""

    job: str
    token: int
    error: RainStormError


@dataclass(frozen=True, slots=True)
class StatusWanted:
    """A client asks for the status of the jobs; ``token`` identifies the call."""

    token: int


@dataclass(frozen=True, slots=True)
class ReplyStatus:
    """Effect: give the jobs to the caller, who must read them before the next event is handled."""

    token: int
    leading: bool
    jobs: Mapping[str, JobMachine]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Effect: fence the logs for ``term`` and read them; answer with ``TookOver``."""

    term: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Effect: stop acting as leader."""


Event = (
    ViewChanged
    | TookOver
    | JobSubmitted
    | CancelRequested
    | ReportReceived
    | AgentUnreachable
    | LogAppended
    | LogRejected
    | RecordsRefused
    | StatusWanted
    | Tick
)
Effect = Tell | AppendLog | JobEnded | DeleteFiles | TakeOver | StepDown | ReplyStatus


class LeaderCore:
    """Routes events to jobs and keeps track of which nodes are usable."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.term = 0
        self.leading = False
        self.taking_over = False
        self.jobs: dict[str, JobMachine] = {}
        self.view = ViewChanged()
        self._excluded: dict[str, float] = {}
        self._ping_at = 0.0

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Applies one event and returns the effects in order."""
        match event:
            case ViewChanged():
                return self._change_view(now, event)
            case TookOver(term=term, states=states):
                return self._took_over(now, term, states)
            case JobSubmitted(state=state):
                known = state.job in self.jobs  # a take-over may already have found it in the log
                return self._add(now, state, "submitted") if self.leading and not known else []
            case CancelRequested(job=job):
                return list(self.jobs[job].cancel(now)) if job in self.jobs else []
            case ReportReceived(node=node, report=report):
                return self._report(now, node, report)
            case AgentUnreachable(node=node):
                return self._exclude(now, node)
            case LogAppended(job=job, token=number, at=at):
                return list(self.jobs[job].appended(now, number, at)) if job in self.jobs else []
            case LogRejected():
                return self._start_over()
            case RecordsRefused(job=job, token=number, error=error):
                known = job in self.jobs
                return list(self.jobs[job].record_refused(now, number, error)) if known else []
            case StatusWanted(token=asked):
                return [ReplyStatus(asked, self.leading, self.jobs)]
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """Returns when the next job or shunned node is due."""
        if not self.leading:
            return None
        times = [machine.next_deadline() for machine in self.jobs.values()]
        times += list(self._excluded.values())
        if self._nodes_in_use():
            times.append(self._ping_at)
        return min((at for at in times if at is not None), default=None)

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        for job, machine in self.jobs.items():
            state = machine.state
            assert state.epoch <= state.epoch_max, f"{job}: committed epoch {state.epoch} was never triggered"
            assert state.published <= state.epoch, f"{job}: published what is not committed"
            epochs = [commit.epoch for commit in state.commits]
            assert epochs == sorted(set(epochs)), f"{job}: epochs {epochs} committed out of order"

    def usable(self, job: str) -> list[str]:
        """Returns the nodes that may get tasks, beginning at a place that differs from job to job."""
        nodes = sorted(name for name in self.view.up() if name not in self._excluded)
        first = token(job) % len(nodes) if nodes else 0
        return nodes[first:] + nodes[:first]

    def _change_view(self, now: float, view: ViewChanged) -> list[Effect]:
        if view.version <= self.view.version:
            return []
        known = self.view.nodes
        before = frozenset(self.view.up())
        restarted = frozenset(
            name for name, life in view.nodes.items() if name in known and life.node_id != known[name].node_id
        )
        self.view = view
        if view.leader != self.name:
            return self._step_down()
        if view.term > self.term:
            self.term, self.leading, self.taking_over = view.term, False, True
            return [TakeOver(self.term)]
        up = frozenset(view.up())
        effects: list[Effect] = []
        for name in sorted((before - up) | (restarted & before)):
            effects += self._node_lost(now, name)
        for name in sorted(up - before):
            effects.append(self._keep(name))
        return effects + self._renew_nodes(now)

    def _took_over(self, now: float, term: int, states: Sequence[JobState]) -> list[Effect]:
        if term != self.term or not self.taking_over:
            return []
        self.leading, self.taking_over = True, False
        self.jobs = {}
        effects: list[Effect] = []
        for state in states:
            effects += self._add(now, state, f"{self.name} took over in term {term}")
        keeps = [self._keep(name) for name in self.view.up()]
        return [*keeps, *effects]

    def _add(self, now: float, state: JobState, cause: str) -> list[Effect]:
        ended = [job for job, machine in self.jobs.items() if machine.phase == "ended"]
        for job in ended[:-ENDED_KEPT_MAX]:
            del self.jobs[job]
        machine = JobMachine(state, self.term, self.usable(state.job))
        self.jobs[state.job] = machine
        return list(machine.begin(now, cause))

    def _keep(self, node: str) -> Tell:
        jobs = {
            job: machine.state.generation
            for job, machine in self.jobs.items()
            if machine.phase != "ended" and node in machine.state.placement.values()
        }
        return Tell(node, commands.Keep(self.term, jobs))

    def _report(self, now: float, node: str, report: reports.Report) -> list[Effect]:
        effects: list[Effect] = []
        if self._excluded.pop(node, None) is not None:
            effects += self._readmit(now, [node])
        if not self.leading:
            return effects
        machine = self.jobs.get(report.job)
        if self._is_stray(node, report, machine):
            return [*effects, self._keep(node)]
        if machine is None:
            return effects
        match report:
            case reports.Prepared():
                effects += machine.prepared(now, node, report)
            case reports.Acknowledged():
                effects += machine.acknowledged(now, report)
            case reports.EpochWanted():
                effects += machine.epoch_wanted(now, report)
            case reports.Published():
                effects += machine.published(now, report)
            case reports.PublicationRefused():
                effects += machine.publication_refused(now, report)
            case reports.TaskFailed():
                effects += machine.task_failed(now, report)
            case _:
                assert_never(report)
        return effects

    def _is_stray(self, node: str, report: reports.Report, machine: JobMachine | None) -> bool:
        """Tells whether a report comes from tasks that should not run.

        A deployment that the network delayed may reach a node after everything that was sent later: after the
        command that names the jobs to keep, even after the end of the job. Nobody else would stop its tasks.
        """
        if isinstance(report, reports.Published | reports.PublicationRefused):
            return False  # any node may publish
        return machine is None or machine.phase == "ended" or node not in machine.state.placement.values()

    def _exclude(self, now: float, node: str) -> list[Effect]:
        if not self.leading:
            return []
        self._excluded[node] = now + EXCLUDE_S
        return self._node_lost(now, node)

    def _node_lost(self, now: float, node: str) -> list[Effect]:
        effects: list[Effect] = []
        for job, machine in self.jobs.items():
            usable = self.usable(job)
            machine.nodes = [name for name in usable if name != node] or usable
            effects += machine.node_lost(now, node)
            machine.nodes = usable
        return effects

    def _readmit(self, now: float, nodes: Sequence[str]) -> list[Effect]:
        # Commands to stop tasks did not reach them in that time.
        up = [node for node in nodes if self.view.is_up(node)]
        return [*(self._keep(node) for node in up), *self._renew_nodes(now)]

    def _renew_nodes(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for job, machine in self.jobs.items():
            machine.nodes = self.usable(job)
            if machine.phase == "waiting":
                effects += machine.tick(now)
        return effects

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        over = [node for node, until in self._excluded.items() if until <= now]
        for node in over:
            del self._excluded[node]
        if over:
            effects += self._readmit(now, over)
        if now >= self._ping_at:
            self._ping_at = now + PING_S
            effects += [Tell(node, commands.Ping(self.term)) for node in self._nodes_in_use()]
        for machine in self.jobs.values():
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= now:
                effects += machine.tick(now)
        return effects

    def _start_over(self) -> list[Effect]:
        # Either another node leads in a later term: then the take-over is refused. Or HyDFS was unreachable
        # for so long that only reading the logs shows what is in them.
        effects = self._step_down()
        if effects and self.view.leader == self.name:
            self.taking_over = True
            effects.append(TakeOver(self.term))
        return effects

    def _nodes_in_use(self) -> list[str]:
        active = [machine for machine in self.jobs.values() if machine.phase != "ended"]
        return sorted({node for machine in active for node in machine.state.placement.values()})

    def _step_down(self) -> list[Effect]:
        if not (self.leading or self.taking_over):
            return []
        self.leading = self.taking_over = False
        self.jobs = {}
        return [StepDown()]
