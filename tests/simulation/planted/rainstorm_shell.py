"""Mistakes in the engine's shells, each made on purpose: the simulator must find every one.

They are of the kinds that reviews have found in shells: a lost wake-up, an answer before the write, a
question without an answer, a thread that ends silently, a retry without a pause, a resource that is never
given back.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from agent.common.errors import Overloaded, RainStormError
from agent.common.shell import clock, network, threads
from agent.rainstorm.host.core.events import AppendSegments, OutputPublished, PublishOutput
from agent.rainstorm.host.shell import launcherlink, supervisor
from agent.rainstorm.host.shell.launcherlink import LauncherLink
from agent.rainstorm.host.shell.supervisor import TaskProcess, TaskSupervisor
from agent.rainstorm.host.shell.writers import Publisher, SegmentWriter
from agent.rainstorm.io import links
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core.effects import AppendLog
from agent.rainstorm.leader.core.leader import LogAppended, LogRejected, ReplyStatus
from agent.rainstorm.leader.shell import leader as leader_shell
from agent.rainstorm.leader.shell.joblog import LogWriter
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.rainstorm.task.shell.arrivals import Arrivals
from agent.rainstorm.task.shell.channel import Channel
from agent.rainstorm.task.shell.identity import Identity
from agent.rainstorm.task.shell.loop import TaskLoop
from tests.simulation.planted.bug import PlantedBug
from tests.simulation.planted.rainstorm import RAINSTORM


def _nothing(*_: Any, **__: Any) -> None:
    """Does not do what it should."""


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
    write = self._write
    failures: list[Exception] = []

    def noted(job: str, data: bytes) -> tuple[str, int]:
        try:
            return write(job, data)
        except Exception as error:
            failures.append(error)
            raise

    self._write = noted  # type: ignore[method-assign]
    try:
        _append_segments(self, wanted)
    finally:
        del self._write
    if failures:
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
        self._refill.clear()  # an end since the look was noted, and is forgotten here
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
    """A TLS context whose handshakes block."""

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


def _wait_for_room_alone(self: TaskLoop, output: Channel) -> None:
    network.wait([], [output.sock])


_accept = Arrivals.accept


BUGS = (
    PlantedBug(
        "publication with a new sequence each time",
        "a repeated publication is made once",
        RAINSTORM,
        ((Publisher, "_publish", _publish_anew),),
    ),
    PlantedBug(
        "an append with an unknown outcome counts as made",
        "after an unknown outcome only a take-over knows the log",
        RAINSTORM,
        ((LogWriter, "append", _take_unknown_for_made),),
        ("cut_off_store", "unsure_store", "slow_store"),
    ),
    PlantedBug(
        "a question that is never answered",
        "every question is answered, even by a former leader",
        RAINSTORM,
        ((Dispatcher, "_answer", _leave_unanswered), (leader_shell, "STATUS_TIMEOUT_S", 1e6)),
    ),
    PlantedBug(
        "the end of a job wakes nobody",
        "a client that waits for a job hears of its end at once",
        RAINSTORM,
        ((Dispatcher, "_end", _end_without_notice),),
        ("abort_client", "cancel"),
    ),
    PlantedBug(
        "the job log's thread dies silently",
        "a leader without its log thread ends",
        RAINSTORM,
        ((LogWriter, "append", _end_the_log_thread), (Dispatcher, "_log_failed", _say_nothing_of_it)),
    ),
    PlantedBug(
        "reports are repeated without a pause",
        "a retry comes after a pause",
        RAINSTORM,
        ((links, "RETRY_S", 0.0),),
        ("crash_leader", "kill"),
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
        ("full_store", "cut_off_store"),
    ),
    PlantedBug(
        "a failed publication counts as made",
        "a failed publication is repeated",
        RAINSTORM,
        ((Publisher, "_publish", _call_it_published),),
        ("full_store", "cut_off_store"),
    ),
    PlantedBug(
        "an ended process stays on the list",
        "a process that has ended is forgotten",
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
        "every requested task is reported as ended once",
        RAINSTORM,
        ((LauncherLink, "_report", _forget_the_lost),),
        ("kill_launcher", "kill_task"),
    ),
    PlantedBug(
        "a task waits for handshakes",
        "a stranger delays nobody",
        RAINSTORM,
        ((Arrivals, "accept", _wait_for_handshakes),),
        ("strangers",),
    ),
    PlantedBug(
        "released channels are not watched again",
        "no wake-up is lost",
        RAINSTORM,
        ((TaskLoop, "_release", _nothing),),
    ),
    PlantedBug(
        "a task with a full channel does not hear its agent",
        "a full channel never keeps a task from its agent",
        RAINSTORM,
        ((TaskLoop, "_wait_for_room", _wait_for_room_alone),),
        ("cut", "partition"),
    ),
)
