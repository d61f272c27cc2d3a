"""Replicated registers over the wire: the voter's durable store, its request handlers, and the threaded
proposer.

A voter keeps its slots in memory and in one append-only log: length, CRC32, msgpack [key, promised, accepted,
value]. A change is written and ``fdatasync``-ed before it is answered (a promise that a crash forgets could
elect two values). The log is rewritten when it has grown to many times what it holds. A torn record at the
end was never answered and is cut off; a bad record before the end means that the disk lies, and the agent
refuses to start.
"""

from __future__ import annotations

import os
import queue
import random
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack

from agent.common import clock
from agent.common.deadline import Deadline
from agent.common.errors import Corrupt, DiskFailed, NoMajority, RainStormError
from agent.common.register import (
    Accept,
    Answer,
    AnswerReceived,
    Ask,
    Change,
    Failed,
    Finished,
    Prepare,
    Proposal,
    Read,
    Slot,
    VoterFailed,
    VoterRequest,
    Wait,
    answer,
    settled,
)
from agent.wire.client import Client, Target
from agent.wire.server import Handler, Reply, Request

RECORD = struct.Struct(">II")
REWRITE_BYTES_MIN = 4 * 1024 * 1024
# Voters answer in a millisecond or two; one that takes longer than this is counted as failed for this round.
VOTER_TIMEOUT_S = 1.0
PROPOSER_THREADS = 16


class RegisterStore:
    """The durable slots of one voter."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size = self._load() if path.exists() else 0
        self._file = self._open_log()

    def apply(self, request: VoterRequest) -> Answer:
        """Applies a request; its answer may leave only after this returns.

        Raises:
            DiskFailed: the log cannot be written; the agent must stop.
        """
        with self._lock:
            slot = self._slots.get(request.key, Slot())
            changed, reply = answer(slot, request)
            if changed != slot:
                self._append(request.key, changed)
                self._slots[request.key] = changed
            return reply

    def keys(self, prefix: str = "") -> list[str]:
        """Returns the names of the registers that hold an accepted value, sorted."""
        with self._lock:
            return sorted(
                key for key, slot in self._slots.items() if key.startswith(prefix) and slot.value is not None
            )

    def slot(self, key: str) -> Slot:
        """Returns this voter's own slot, which may be behind."""
        with self._lock:
            return self._slots.get(key, Slot())

    def close(self) -> None:
        """Closes the log."""
        with self._lock:
            os.close(self._file)

    def _open_log(self) -> int:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)  # a new log must survive a power cut together with its first record
        os.close(folder)
        return descriptor

    def _append(self, key: str, slot: Slot) -> None:
        record = _pack(key, slot)
        try:
            written = os.write(self._file, record)
            if written != len(record):
                raise OSError(f"wrote {written} of {len(record)} bytes")
            os.fdatasync(self._file)
        except OSError as error:
            raise DiskFailed(f"register log {self._path} cannot be written: {error}") from error
        self._size += len(record)
        live = 256 * (len(self._slots) + 1)
        if self._size > max(REWRITE_BYTES_MIN, 16 * live):
            self._rewrite(key, slot)

    def _rewrite(self, key: str, slot: Slot) -> None:
        fresh = self._path.with_suffix(".new")
        data = b"".join(_pack(name, kept) for name, kept in {**self._slots, key: slot}.items())
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, self._path)
        os.close(self._file)
        self._file = self._open_log()
        self._size = len(data)

    def _load(self) -> int:
        data = self._path.read_bytes()
        offset = 0
        while offset < len(data):
            end, record = _unpack(data, offset)
            if record is None:
                if any(
                    _unpack(data, start)[1] for start in range(offset + 1, min(len(data), offset + 65536))
                ):
                    raise Corrupt(
                        f"register log {self._path} is damaged at byte {offset}, with good records behind it",
                        hint="replace this node's disk and let it join as a new node",
                    )
                with open(self._path, "r+b") as file:
                    file.truncate(offset)
                break
            key, promised, accepted, value = record
            self._slots[key] = Slot((promised[0], promised[1]), (accepted[0], accepted[1]), value)
            offset = end
        return offset


def _pack(key: str, slot: Slot) -> bytes:
    body: bytes = msgpack.packb([key, slot.promised, slot.accepted, slot.value], use_bin_type=True)
    return RECORD.pack(len(body), zlib.crc32(body)) + body


def _unpack(data: bytes, offset: int) -> tuple[int, list[Any] | None]:
    start = offset + RECORD.size
    if start > len(data):
        return offset, None
    length, crc = RECORD.unpack_from(data, offset)
    body = data[start : start + length]
    if length < 4 or len(body) != length or zlib.crc32(body) != crc:
        return offset, None
    return start + length, msgpack.unpackb(body, raw=False, strict_map_key=False)


def to_fields(request: VoterRequest) -> dict[str, Any]:
    """Returns a voter's request as header fields."""
    match request:
        case Read(key=key):
            return {"key": key}
        case Prepare(key=key, ballot=ballot):
            return {"key": key, "ballot": ballot}
        case Accept(key=key, ballot=ballot, value=value):
            return {"key": key, "ballot": ballot, "value": value}


def handlers(store: RegisterStore, prefix: str) -> dict[str, Handler]:
    """Returns the request handlers of a voter, named ``<prefix>.prepare``, ``.accept``, ``.read`` and
    ``.keys``.
    """

    def reply(found: Answer) -> Reply:
        return Reply(
            {"voted": found.ok, "promised": found.promised, "accepted": found.accepted, "value": found.value}
        )

    def ballot(request: Request) -> tuple[int, str]:
        counter, proposer = request.fields["ballot"]
        return (int(counter), str(proposer))

    return {
        f"{prefix}.prepare": lambda r: reply(store.apply(Prepare(str(r.fields["key"]), ballot(r)))),
        f"{prefix}.accept": lambda r: reply(
            store.apply(Accept(str(r.fields["key"]), ballot(r), r.fields["value"]))
        ),
        f"{prefix}.read": lambda r: reply(store.apply(Read(str(r.fields["key"])))),
        f"{prefix}.keys": lambda r: Reply({"keys": store.keys(str(r.fields.get("prefix", "")))}),
    }


class Registers:
    """Changes and reads registers on a set of voters; safe for use by many threads."""

    def __init__(self, name: str, prefix: str, client: Client, voters: dict[str, Target]) -> None:
        self._name = name
        self._prefix = prefix
        self._client = client
        self._voters = voters
        self._executor = ThreadPoolExecutor(PROPOSER_THREADS, thread_name_prefix=f"{prefix}-proposer")
        self._counters: dict[str, int] = {}
        self._rng = random.Random()

    def change(self, key: str, change: Change, *, timeout_s: float = 5.0) -> Any:
        """Applies ``change`` to the value of register ``key`` and returns the new value.

        ``change`` gets the current value (None at first) and may raise a RainStormError to refuse. It may run
        several times.

        Raises:
            NoMajority: too few voters answer; the outcome is unknown.
            RainStormError: what ``change`` refused with.
        """
        # A proposer's ballots must be its own: the suffix keeps two threads of one node apart.
        proposer = f"{self._name}/{threading.get_ident()}"
        proposal = Proposal(key, change, list(self._voters), proposer, self._rng, self._counters.get(key, 0))
        deadline = Deadline(clock.monotonic(), timeout_s)
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed] = queue.SimpleQueue()
        effects = proposal.start()
        while True:
            for effect in effects:
                match effect:
                    case Ask():
                        self._submit(effect, inbox, deadline)
                    case Wait(delay_s=delay_s):
                        threading.Event().wait(min(delay_s, deadline.remaining(clock.monotonic())))
                        deadline.require(clock.monotonic(), f"change of register {key}")
                        effects = proposal.retry()
                        break
                    case Failed(error=error):
                        raise error
                    case Finished(value=value, error=refusal):
                        if len(self._counters) > 10_000:
                            self._counters.clear()  # only a hint that saves a lost first round
                        self._counters[key] = proposal.counter
                        if refusal is not None:
                            raise refusal
                        return value
            else:
                effects = self._next(proposal, inbox, deadline, key)

    def read(self, key: str, *, timeout_s: float = 5.0) -> Any:
        """Returns the value of register ``key``, linearizably.

        Raises:
            NoMajority: too few voters answer.
        """
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed] = queue.SimpleQueue()
        deadline = Deadline(clock.monotonic(), timeout_s)
        for voter in self._voters:
            self._submit(Ask(voter, 0, Read(key)), inbox, deadline)
        answers: list[Answer] = []
        for _ in self._voters:
            event = self._receive(inbox, deadline, key)
            if isinstance(event, AnswerReceived):
                answers.append(event.answer)
            found = settled(answers, list(self._voters))
            if found is not None:
                return found.value
        return self.change(
            key, lambda value: value, timeout_s=deadline.require(clock.monotonic(), f"read {key}")
        )

    def keys(self, prefix: str, *, timeout_s: float = 5.0) -> list[str]:
        """Returns the names known to a majority of the voters; each must be read to learn its value.

        Raises:
            NoMajority: too few voters answer.
        """
        futures = [
            self._executor.submit(
                self._client.call, target, f"{self._prefix}.keys", {"prefix": prefix}, timeout_s=timeout_s
            )
            for target in self._voters.values()
        ]
        names: set[str] = set()
        answered = 0
        for future in futures:
            try:
                names.update(future.result(timeout_s + 1.0).fields["keys"])
                answered += 1
            except (RainStormError, TimeoutError):
                continue
        if answered <= len(futures) // 2:
            raise NoMajority(f"only {answered} of {len(futures)} voters list their names", hint="fab status")
        return sorted(names)

    def close(self) -> None:
        """Ends the worker threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _next(
        self,
        proposal: Proposal,
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed],
        deadline: Deadline,
        key: str,
    ) -> list[Any]:
        return list(proposal.handle(self._receive(inbox, deadline, key)))

    def _receive(
        self, inbox: queue.SimpleQueue[AnswerReceived | VoterFailed], deadline: Deadline, key: str
    ) -> AnswerReceived | VoterFailed:
        try:
            return inbox.get(timeout=deadline.require(clock.monotonic(), f"register {key}"))
        except queue.Empty:
            raise NoMajority(f"register {key}: the voters do not answer in time", hint="fab status") from None

    def _submit(
        self, ask: Ask, inbox: queue.SimpleQueue[AnswerReceived | VoterFailed], deadline: Deadline
    ) -> None:
        def work() -> None:
            inbox.put(self._ask(ask, deadline))

        self._executor.submit(work)

    def _ask(self, ask: Ask, deadline: Deadline) -> AnswerReceived | VoterFailed:
        kind = f"{self._prefix}.{type(ask.request).__name__.lower()}"
        timeout_s = min(VOTER_TIMEOUT_S, deadline.remaining(clock.monotonic()))
        try:
            found = self._client.call(
                self._voters[ask.voter], kind, to_fields(ask.request), timeout_s=timeout_s
            ).fields
        except RainStormError:
            return VoterFailed(ask.voter, ask.attempt)
        promised, accepted = found["promised"], found["accepted"]
        return AnswerReceived(
            ask.voter,
            ask.attempt,
            Answer(
                bool(found["voted"]), (promised[0], promised[1]), (accepted[0], accepted[1]), found["value"]
            ),
        )


def voter_targets(voters: Sequence[str], target: Callable[[str], Target]) -> dict[str, Target]:
    """Returns where each voter listens, in the configured order."""
    return {name: target(name) for name in voters}
