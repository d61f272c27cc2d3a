"""Rules of the stream engine, each broken on purpose: the checks must find every one.

A bug replaces attributes of the real classes while the seeds run. Where two rules guard the same thing, both
are broken and only what comes out is looked at. Some bugs get only the faults that can show them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.common.errors import Overloaded, RainStormError
from agent.common.shell import clock, network, threads
from agent.rainstorm.host.core.host import AppendSegments, HostCore, OutputPublished, PublishOutput
from agent.rainstorm.host.shell import launcherlink, supervisor
from agent.rainstorm.host.shell.launcherlink import LauncherLink
from agent.rainstorm.host.shell.supervisor import TaskProcess, TaskSupervisor
from agent.rainstorm.host.shell.writers import Publisher, SegmentWriter
from agent.rainstorm.io import links
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core.effects import AppendLog, Effect, Tell
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import LeaderCore, LogAppended, LogRejected, ReplyStatus
from agent.rainstorm.leader.core.publication import Order, Publication
from agent.rainstorm.leader.shell import leader as leader_shell
from agent.rainstorm.leader.shell.joblog import LogWriter
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.rainstorm.messages import commands
from agent.rainstorm.messages.reports import Acknowledged
from agent.rainstorm.task.core.processor import Restore, TaskCore
from agent.rainstorm.task.shell.arrivals import Arrivals
from agent.rainstorm.task.shell.channel import Channel
from agent.rainstorm.task.shell.identity import Identity
from agent.rainstorm.task.shell.loop import TaskLoop
from agent.rainstorm.task.state.keyed import KeyedState
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.rainstorm import scenario

RAINSTORM = Subject("rainstorm", lambda seed, kinds: scenario.run(scenario.schedule_of(seed, kinds)))
# Only what comes out is looked at.
OUTPUT = Subject(
    "rainstorm",
    lambda seed, kinds: scenario.run(scenario.schedule_of(seed, kinds), end_to_end_only=True),
)


def _nothing(*_: Any, **__: Any) -> None:
    """Does not do what it should."""


# Cores


def _forget_to_flush(self: TaskCore, restore: Restore) -> None:
    _reset(self, replace(restore, done=restore.done or self._flushed))


def _forget_positions(self: TaskCore, restore: Restore) -> None:
    _reset(self, replace(restore, positions={}))


def _obey_old_terms(self: HostCore, command: commands.Command) -> list[Any]:
    self.term = 0
    return list(_command(self, command))


def _start_again(self: HostCore, command: commands.Command) -> list[Any]:
    for job in self.jobs.values():
        job.started = False
    return list(_command(self, command))


def _forget_undo(self: KeyedState, epoch: int) -> None:
    self._open = {}
    self._undo.clear()


def _reuse_epochs(self: JobMachine, now: float, cause: str) -> Any:
    self.state.epoch_max = self.state.epoch
    return _new_generation(self, now, cause)


def _publish_early(self: JobMachine, now: float, report: Acknowledged) -> list[Effect]:
    effects = _acknowledged(self, now, report)
    epoch = self._epoch
    if epoch is not None and epoch.committing:
        for task, found in epoch.acks.items():
            if found.sink:
                command = commands.Publish(*self._address(), epoch.number, task, self.state.sink, found.sink)
                effects.append(Tell(self.state.placement[task], command))
    return effects


def _always_in_place(self: JobMachine, node: str) -> commands.Deploy:
    deployment = _deployment(self, node)
    tasks = {
        task: replace(start, in_place=task not in self._fresh) for task, start in deployment.tasks.items()
    }
    return replace(deployment, tasks=tasks)


def _publish_all(self: Publication, now: float, nodes: Sequence[str]) -> list[Order]:
    # What the engine did before the simulator was there: later epochs without waiting for earlier ones.
    given: list[Order] = []
    for epoch, task, references in reversed(self._state.unpublished):
        if (epoch, task) not in self._given and nodes:
            node = self._state.placement.get(task, "")
            node = node if node in nodes else nodes[0]
            self._given[epoch, task] = (node, now)
            given.append(Order(node, epoch, task, references))
    return given


def _keep_everything(self: LeaderCore, node: str) -> Tell:
    jobs = {job: 0 for job, machine in self.jobs.items() if machine.phase != "ended"}
    return Tell(node, commands.Keep(self.term, jobs))


def _readmit_silently(self: LeaderCore, now: float, nodes: Any) -> list[Any]:
    return list(self._renew_nodes(now))


_reset = TaskCore.reset
_command = HostCore._command
_new_generation = JobMachine._new_generation
_acknowledged = JobMachine.acknowledged
_deployment = JobMachine._deployment


# Shells of the leader


def _take_unknown_for_made(self: LogWriter, effect: AppendLog) -> None:
    post = self._post

    def tell(event: Any) -> None:
        made = LogAppended(effect.job, effect.token, clock.wall())
        post(made if isinstance(event, LogRejected) else event)

    self._post = tell
    try:
        _append(self, effect)
    finally:
        self._post = post


def _leave_unanswered(self: Dispatcher, effect: ReplyStatus) -> None:
    if effect.leading:
        _answer(self, effect)


def _end_without_notice(self: Dispatcher, job: str) -> None:
    changed, self._changed = self._changed, threads.condition()
    try:
        _end(self, job)
    finally:
        self._changed = changed


def _end_the_log_thread(self: LogWriter, effect: AppendLog) -> None:
    post = self._post

    def tell(event: Any) -> None:
        if isinstance(event, LogRejected):
            raise Overloaded("nobody catches this")
        post(event)

    self._post = tell
    try:
        _append(self, effect)
    finally:
        self._post = post


def _say_nothing_of_it(self: Dispatcher, error: Exception) -> bool:
    return False


_append = LogWriter.append
_answer = Dispatcher._answer
_end = Dispatcher._end


# Shells of a host


class _Hasty:
    """A storage whose appends are answered before they are made."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def create_if_missing(self, file: str) -> None:
        self._storage.create_if_missing(file)

    def append(self, *arguments: Any, **keywords: Any) -> None:
        threads.start("late-append", self._append, arguments, keywords)

    def _append(self, arguments: Any, keywords: Any) -> None:
        try:
            self._storage.append(*arguments, **keywords)
        except RainStormError:
            return


def _reply_before_the_flush(self: SegmentWriter, wanted: AppendSegments) -> None:
    storage: Any = self._storage
    self._storage = _Hasty(storage)  # type: ignore[assignment]
    try:
        _append_segments(self, wanted)
    finally:
        self._storage = storage


def _end_the_writer(self: SegmentWriter, wanted: AppendSegments) -> None:
    before = self._files
    _append_segments(self, wanted)
    if wanted.job not in self._open and self._files == before:
        return
    if wanted.job not in self._open:
        self._worker.stop(drain=False, timeout_s=0.0)


def _call_it_published(self: Publisher, wanted: PublishOutput) -> None:
    try:
        _publish(self, wanted)
    finally:
        self._post(OutputPublished(wanted.job, wanted.epoch, wanted.task))


def _publish_anew(self: Publisher, wanted: PublishOutput) -> None:
    _publish(self, replace(wanted, epoch=next(_counter)))
    self._post(OutputPublished(wanted.job, wanted.epoch, wanted.task))


def _keep_the_ended(self: TaskSupervisor, process: TaskProcess, cause: str) -> None:
    _ended(self, process, cause)
    if process.key is not None:
        self._all[process.number] = process


def _clear_too_late(self: TaskSupervisor) -> None:
    while not self._stopping.is_set():
        self._fill()
        self._stopping.wait(supervisor.REFILL_DELAY_S)
        self._refill.clear()  # what ended since the look was noted and is forgotten here
        self._refill.wait()


def _forget_the_lost(self: LauncherLink, number: int, cause: str) -> None:
    if cause != launcherlink.LOST:
        _report(self, number, cause)


_append_segments = SegmentWriter._append
_publish = Publisher._publish
_ended = TaskSupervisor.ended
_report = LauncherLink._report
_counter = itertools.count(1)


# Shells of a task


class _Patient:
    """A TLS context whose handshakes are waited for."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def wrap_socket(self, plain: Any, **_: Any) -> Any:
        plain.setblocking(True)
        return self._context.wrap_socket(plain, server_side=True)


class _PatientIdentity:
    def __init__(self, identity: Identity) -> None:
        self.server: Any = _Patient(identity.server)
        self.client = identity.client


def _wait_for_handshakes(self: Arrivals, identity: Identity | None) -> None:
    _accept(self, None if identity is None else _PatientIdentity(identity))


def _watch_without_a_look(self: TaskLoop, peer: str) -> None:
    _watch(self, peer)
    self._unread.discard(peer)


def _wait_for_room_alone(self: TaskLoop, output: Channel) -> None:
    network.wait([], [output.sock])


_accept = Arrivals.accept
_watch = TaskLoop._watch

BUGS = (
    PlantedBug(
        "no alignment blocking",
        "records behind a barrier belong to the next epoch",
        RAINSTORM,
        ((TaskCore, "blocked", lambda self, channel: False),),
        ("kill_task",),
    ),
    PlantedBug(
        "rollback forgets undo",
        "a rollback undoes what was not committed",
        RAINSTORM,
        ((KeyedState, "roll_back", _forget_undo),),
    ),
    PlantedBug(
        "leader reuses epoch numbers after a rollback",
        "an epoch number belongs to one generation",
        RAINSTORM,
        ((JobMachine, "_new_generation", _reuse_epochs),),
    ),
    PlantedBug(
        "publish before commit",
        "only what is committed is published",
        RAINSTORM,
        ((JobMachine, "acknowledged", _publish_early),),
    ),
    PlantedBug(
        "flush forgotten after a reset",
        "a reset forgets what was flushed after the commit",
        RAINSTORM,
        ((TaskCore, "reset", _forget_to_flush),),
    ),
    PlantedBug(
        "positions not restored",
        "a source goes on where the commit has it",
        RAINSTORM,
        ((TaskCore, "reset", _forget_positions),),
    ),
    PlantedBug(
        "in place where the task was not, nodes keep everything",
        "a task in place has the committed state",
        OUTPUT,
        ((JobMachine, "_deployment", _always_in_place), (LeaderCore, "_keep", _keep_everything)),
        ("leave", "pause", "pause_leader", "power"),
    ),
    PlantedBug(
        "publication with a new sequence each time",
        "a publication that comes twice is made once",
        RAINSTORM,
        ((Publisher, "_publish", _publish_anew),),
    ),
    PlantedBug(
        "host obeys old terms",
        "the word of a deposed leader is ignored",
        RAINSTORM,
        ((HostCore, "_command", _obey_old_terms),),
    ),
    PlantedBug(
        "start obeyed twice",
        "a command that comes twice is obeyed once",
        RAINSTORM,
        ((HostCore, "_command", _start_again),),
        ("break", "break", "slow_wires", "kill_task"),
    ),
    PlantedBug(
        "publication out of order",
        "epochs of a sink are published in order",
        RAINSTORM,
        ((Publication, "next", _publish_all),),
        ("unsure_store", "cut_off_store", "slow_store", "break"),
    ),
    PlantedBug(
        "a node that returns is not told what to stop",
        "nothing of a job runs once it has ended",
        RAINSTORM,
        ((LeaderCore, "_readmit", _readmit_silently),),
    ),
    # In shells
    PlantedBug(
        "an append with an unknown outcome counts as made",
        "only a take-over can tell what is in a log",
        RAINSTORM,
        ((LogWriter, "append", _take_unknown_for_made),),
    ),
    PlantedBug(
        "a question that is never answered",
        "every question is answered, also by a leader no more",
        RAINSTORM,
        ((Dispatcher, "_answer", _leave_unanswered), (leader_shell, "STATUS_TIMEOUT_S", 1e6)),
    ),
    PlantedBug(
        "the end of a job wakes nobody",
        "who waits for a job hears of its end at once",
        RAINSTORM,
        ((Dispatcher, "_end", _end_without_notice),),
    ),
    PlantedBug(
        "the job log's thread dies silently",
        "a leader without its log thread ends",
        RAINSTORM,
        ((LogWriter, "append", _end_the_log_thread), (Dispatcher, "_log_failed", _say_nothing_of_it)),
    ),
    PlantedBug(
        "reports are repeated without a pause",
        "whoever does not answer is asked again after a pause",
        RAINSTORM,
        ((links, "RETRY_S", 0.0),),
        ("crash_leader", "power_all", "kill"),
    ),
    PlantedBug(
        "segments are acknowledged before they are written",
        "a commit refers to durable bytes",
        RAINSTORM,
        ((SegmentWriter, "_append", _reply_before_the_flush),),
    ),
    PlantedBug(
        "the segment writer ends with its first failure",
        "an error of one job does not end the work for all",
        RAINSTORM,
        ((SegmentWriter, "_append", _end_the_writer),),
    ),
    PlantedBug(
        "a failed publication counts as made",
        "what was not published is published again",
        RAINSTORM,
        ((Publisher, "_publish", _call_it_published),),
        ("unsure_store", "cut_off_store", "slow_store"),
    ),
    PlantedBug(
        "an ended process stays on the list",
        "what has ended is forgotten",
        RAINSTORM,
        ((TaskSupervisor, "ended", _keep_the_ended),),
    ),
    PlantedBug(
        "the wish for a spare is cleared after the look",
        "no wake-up is lost",
        RAINSTORM,
        ((TaskSupervisor, "_keep_spares", _clear_too_late),),
        ("kill_spare", "kill_task", "kill_launcher"),
    ),
    PlantedBug(
        "a lost launcher's tasks are not reported",
        "every task that was asked for is reported as ended once",
        RAINSTORM,
        ((LauncherLink, "_report", _forget_the_lost),),
        ("kill_launcher", "kill_task"),
    ),
    PlantedBug(
        "a task waits for handshakes",
        "a stranger delays nobody",
        RAINSTORM,
        ((Arrivals, "accept", _wait_for_handshakes),),
        ("strangers", "kill_task"),
    ),
    PlantedBug(
        "released channels are not watched again",
        "no wake-up is lost",
        RAINSTORM,
        ((TaskLoop, "_release", _nothing),),
    ),
    PlantedBug(
        "decrypted frames are not looked for",
        "a TLS socket may hold what a selector cannot see",
        RAINSTORM,
        ((TaskLoop, "_watch", _watch_without_a_look),),
    ),
    PlantedBug(
        "a task with a full channel does not hear its agent",
        "a full channel never keeps a task from its agent",
        RAINSTORM,
        ((TaskLoop, "_wait_for_room", _wait_for_room_alone),),
        ("hang_task", "pause_task", "cut"),
    ),
)
