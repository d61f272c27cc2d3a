"""A leader core and the host cores of its nodes; the test replaces threads, links and processes.

Nothing moves by itself: ``settle`` delivers messages until none is left; a test may cut off nodes,
hold back log appends, drop messages, or feed any event by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from agent.common.core import Tick
from agent.rainstorm.host.core.events import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    KillTask,
    OutputPublished,
    PublishOutput,
    Report,
    SegmentsAppended,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)
from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.job.spec import parse
from agent.rainstorm.leader.core.effects import AppendLog, JobEnded, Tell
from agent.rainstorm.leader.core.joblog import JobState, fold
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import (
    AgentUnreachable,
    JobSubmitted,
    LeaderCore,
    LogAppended,
    NodeLife,
    ReplyStatus,
    ReportReceived,
    StepDown,
    TakeOver,
    TookOver,
    ViewChanged,
)
from agent.rainstorm.messages.commands import COMMANDS, Deploy
from agent.rainstorm.messages.control import Snapshot, Start, Trigger
from agent.rainstorm.messages.joblog import JOB_LOG, CommitRecord, JobRecord, TermRecord, decode, encode
from agent.rainstorm.messages.reports import REPORTS
from tests.unit.rainstorm.chain import header_of, job_file

R = TypeVar("R")

JOB = "j-1"
SOURCE_BYTES, SPLIT_STARTS = 12, (4, 6)
# Wall-clock time runs ahead of the monotonic clock by this much.
WALL = 1000.0
COUNT = job_file(
    {"operator": "identity", "tasks": 2},
    {"operator": "aggregate-by-key", "key": "k", "tasks": 2},
    format="csv",
)


def new_job(job: str = JOB, raw: dict[str, Any] | None = None) -> JobState:
    """Returns the state of a job that has just been submitted."""
    raw = raw or COUNT
    header = replace(header_of(parse(raw), b"k,v\n1,2\n3,4\n", [6]), homes={"0.0": "n1", "0.1": "n2"})
    return JobState(job=job, spec=raw, header=header, sink="out", submitted_at=1.0)


def job_record(state: JobState) -> JobRecord:
    """Returns the first record of a job's log."""
    return JobRecord(state.job, state.spec, state.header, state.sink, state.submitted_at)


def view(version: int, term: int, leader: str, **nodes: str) -> ViewChanged:
    """Returns a view; ``nodes`` maps names to a state, or to a state and a node id: ``"up:b"``."""
    described = {}
    for name, text in nodes.items():
        state, _, node_id = text.partition(":")
        described[name] = NodeLife(node_id or f"{name}-a", state == "up")
    return ViewChanged(version, term, leader, described)


class FakeTask:
    """A task process: it prepares at once and hands over every epoch that is triggered."""

    def __init__(self, effect: AssignTask) -> None:
        self.generation = effect.generation
        self.in_place = effect.in_place
        self.command = effect.command
        self.started = False
        self.ended = effect.command.done


class Cluster:
    """The cores, the logs, the sink, and the messages in flight."""

    def __init__(self, nodes: Sequence[str] = ("n1", "n2", "n3")) -> None:
        self.now = 10.0
        self.names = list(nodes)
        self.leader = LeaderCore("n1")
        self.hosts = {name: HostCore(name) for name in nodes}
        self.tasks: dict[tuple[str, str, str], FakeTask] = {}
        self.log: dict[str, bytes] = {}
        self.held_appends: list[AppendLog] = []
        self.told: list[Tell] = []
        self.done: list[Any] = []
        self.published: list[tuple[int, str, bytes]] = []
        self.marks: dict[str, int] = {}
        self.silent: set[str] = set()
        self.hold_log = self.hold_publications = False
        self.held_publications: list[tuple[str, PublishOutput]] = []
        self.finished_tasks: set[str] = set()
        self.version = self.term = 0

    # -- the leader --------------------------------------------------------------------------------------

    def lead(self, *, leader: str = "n1", **changed: str) -> None:
        """Shows the leader core a new view in a new term and carries out its take-over."""
        self.term += 1
        self.see(leader, **changed)

    def see(self, leader: str = "n1", **changed: str) -> None:
        """Shows the leader core a new view."""
        self.version += 1
        nodes = {**dict.fromkeys(self.names, "up"), **changed}
        self.tell_leader(view(self.version, self.term, leader, **nodes))

    def submit(self, state: JobState | None = None) -> JobMachine:
        """Submits a job and returns its machine."""
        state = state or new_job()
        self.log[state.job] = encode(JOB_LOG, [job_record(state)])
        self.tell_leader(JobSubmitted(state))
        return self.leader.jobs[state.job]

    def tell_leader(self, event: Any) -> list[Any]:
        """Feeds an event to the leader core and carries out its effects."""
        effects = self.leader.handle(self.now, event)
        self.leader.check_invariants()
        for effect in effects:
            self._lead(effect)
        if not self.hold_log:
            self.release_log()
        return effects

    def _lead(self, effect: Any) -> None:
        match effect:
            case Tell():
                self.told.append(effect)
            case AppendLog():
                self.held_appends.append(effect)
            case TakeOver(term=term):
                self.tell_leader(TookOver(term, [self.folded(job, term) for job in self.log]))
            case JobEnded() | StepDown() | ReplyStatus():
                self.done.append(effect)

    def folded(self, job: str, term: int) -> JobState:
        """Returns the state in a job's log, fenced for a term."""
        self.log[job] += encode(JOB_LOG, [TermRecord(term, "n1")])
        return self.state(job)

    def release_log(self) -> None:
        """Makes the waiting appends durable and confirms them."""
        while self.held_appends:
            effect = self.held_appends.pop(0)
            records = [replace(record, at=self.now + WALL) for record in effect.records]
            self.log[effect.job] += encode(JOB_LOG, records)
            self.tell_leader(LogAppended(effect.job, effect.token, self.now + WALL))

    def restart_leader(self, *, lose_appends: bool = False, **changed: str) -> None:
        """A new leader core takes over from the logs; pending appends are lost or durable, unconfirmed."""
        for effect in [] if lose_appends else self.held_appends:
            records = [replace(record, at=self.now + WALL) for record in effect.records]
            self.log[effect.job] += encode(JOB_LOG, records)
        self.held_appends = []
        self.told = []
        self.leader = LeaderCore("n1")
        self.lead(**changed)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, and lets the leader run its timers."""
        self.now += seconds
        self.tell_leader(Tick())

    # -- the nodes -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Delivers all messages until none is left."""
        for _ in range(10_000):
            if not self.told:
                return
            self.deliver(self.told.pop(0))
        raise AssertionError("it never settles")

    def deliver(self, command: Tell) -> None:
        """Delivers a command to its node, if the node can be reached."""
        if command.node not in self.silent:
            # The shell adds the certificate of the generation.
            told = command.message
            told = replace(told, identity=b"pem") if isinstance(told, Deploy) else told
            self.tell_host(command.node, CommandReceived(COMMANDS.decode(COMMANDS.encode(told))))

    def tell_host(self, node: str, event: Any) -> list[Any]:
        """Feeds an event to a node's core and carries out its effects."""
        effects = self.hosts[node].handle(self.now, event)
        self.hosts[node].check_invariants()
        for effect in effects:
            self._host(node, effect)
        return effects

    def _host(self, node: str, effect: Any) -> None:
        match effect:
            case AssignTask(job=job, task=task):
                before = self.tasks.get((node, job, task))
                assert before is not None or not effect.in_place
                self.tasks[node, job, task] = FakeTask(effect)
                quotes = {0: 0} if effect.command.survey and task.startswith("0.") else {}
                self.tell_host(node, TaskPrepared(job, task, effect.generation, node, 1, 7, quotes))
            case TellTask(job=job, task=task, command=command):
                self._task(node, job, task, command)
            case KillTask(job=job, task=task):
                del self.tasks[node, job, task]
            case AppendSegments(job=job, generation=generation, epoch=epoch, parts=parts):
                references = [[(f"segments-{node}", epoch, len(part))] if part else [] for part in parts]
                self.tell_host(node, SegmentsAppended(job, generation, epoch, references))
            case PublishOutput():
                self.held_publications.append((node, effect))
                if not self.hold_publications:
                    self.release_publications()
            case Report(report=report):
                self.tell_leader(ReportReceived(node, REPORTS.decode(REPORTS.encode(report))))

    def release_publications(self, node: str | None = None) -> None:
        """Appends waiting output to the sink, as HyDFS would: a sequence that is not newer is answered as
        done.
        """
        for held in list(self.held_publications):
            home, effect = held
            if node not in (None, home):
                continue
            self.held_publications.remove(held)
            if effect.epoch > self.marks.get(effect.task, 0):
                self.marks[effect.task] = effect.epoch
                self.published.append((effect.epoch, effect.task, effect.output or b"read"))
            if home not in self.silent:
                self.tell_host(home, OutputPublished(effect.job, effect.epoch, effect.task))

    def _task(self, node: str, job: str, task: str, command: Start | Trigger) -> None:
        process = self.tasks[node, job, task]
        if command.generation != process.generation:
            return
        if isinstance(command, Start):
            process.started = True
        elif process.started:
            self.hand_over(node, task, command.epoch, job=job)

    def hand_over(
        self, node: str, task: str, epoch: int, *, job: str = JOB, generation: int | None = None
    ) -> list[Any]:
        """A task hands over an epoch; sinks have output in every epoch."""
        process = self.tasks[node, job, task]
        generation = process.generation if generation is None else generation
        source = task.startswith("0.")
        process.ended = process.ended or task in self.finished_tasks
        number = int(task[2:])
        said = Snapshot(
            generation=generation,
            epoch=epoch,
            state_bytes=0 if source else 1,
            base=False,
            positions={number: min(SPLIT_STARTS[number] + epoch, SOURCE_BYTES)} if source else {},
            done=process.ended,
            records=epoch,
            bytes=10 * epoch,
        )
        output = b"" if source else f"{task}@{epoch}g{generation}\n".encode()
        return self.tell_host(node, TaskSnapshot(job, task, said, b"" if source else b"s", output))

    # -- queries of tests ------------------------------------------------------------------------------------

    def state(self, job: str = JOB) -> JobState:
        """Returns the current state in the log of a job."""
        return fold(job, decode(JOB_LOG, self.log[job]))

    def records(self, kind: type[R], job: str = JOB) -> list[R]:
        """Returns the records of one kind in a job's log."""
        return [record for record in decode(JOB_LOG, self.log[job]) if isinstance(record, kind)]

    def home(self, task: str, job: str = JOB) -> str:
        """Returns the node that a task is placed on."""
        return self.leader.jobs[job].state.placement[task]

    def kill_task(self, task: str, job: str = JOB) -> None:
        """A task's process dies and its node notices."""
        node = self.home(task, job)
        process = self.tasks[node, job, task]
        self.tell_host(node, TaskGone(job, task, process.generation, "killed by signal 9", None))

    def lose(self, node: str) -> None:
        """A node's agent no longer answers."""
        self.silent.add(node)
        self.tell_leader(AgentUnreachable(node))

    def finish(self, job: str = JOB) -> None:
        """All tasks finish reading: they ask for their last epoch, and time passes until the job ends."""
        machine = self.leader.jobs[job]
        for task in machine.plan.tasks():
            self.finished_tasks.add(task)
        for _ in range(40):
            if machine.phase == "ended":
                return
            self.pass_time(0.5)
            self.settle()
        raise AssertionError(f"{job} does not end; it is {machine.phase}")

    def expected_output(self, job: str = JOB) -> list[tuple[int, str]]:
        """Returns the expected sink: every sink task's output of every committed epoch, once."""
        commits = [record.epoch for record in self.records(CommitRecord, job)]
        return sorted((epoch, task) for epoch in commits for task in ("1.0", "1.1"))

    def want_epoch(self, task: str, *, done: bool = False, job: str = JOB) -> None:
        """A task asks for the end of the epoch."""
        node = self.home(task, job)
        generation = self.tasks[node, job, task].generation
        self.tell_host(node, TaskWantsEpoch(job, task, generation, done))
