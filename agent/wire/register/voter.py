"""A voter: its register log, and the learning that comes before the first vote on an empty disk.

The rule is in ``agent.common.votermemory``. The log exists if and only if this disk may vote: it is created
atomically when the voter is found to be new or has learnt, and the founders are on disk before it.

A value that its subsystem refuses (``check``) is answered with INVALID_MESSAGE before it is voted on or
written. A log of an earlier release may hold one: that register alone is answered with CORRUPT, until the
other voters have a good value accepted in its place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.common import message
from agent.common.errors import Corrupt, DiskFailed, InvalidMessage, RainStormError, Unavailable
from agent.common.message import Name, OptionalName
from agent.common.register import (
    KEYS_MAX,
    Accept,
    Answer,
    Check,
    Keys,
    ListKeys,
    Prepare,
    Read,
    Slot,
    VoterRequest,
)
from agent.common.shell import clock, disk, threads
from agent.common.shell.pool import Pool
from agent.common.votermemory import AskStanding, Standing, Verdict, judge
from agent.wire.client import Client, Target
from agent.wire.endpoint import Call, Endpoint, endpoint
from agent.wire.register.proposer import Registers, anything
from agent.wire.register.store import RegisterStore, write_log

logger = logging.getLogger("agent.wire.register.voter")

ASK_TIMEOUT_S = 1.0
POLL_S = 0.05
POLL_S_MAX = 1.0
# How long a cluster that is being founded waits for all of its voters before a majority founds it.
PATIENCE_S = 5.0
# A request to a cluster that is being founded waits this long; less than proposer.VOTER_TIMEOUT_S.
HOLD_S = 0.8
# No proposal counts a vote for longer than this: a request ends VOTER_TIMEOUT_S after a thread has taken it.
FORGOTTEN_VOTES_S = 20.0


@dataclass(frozen=True, slots=True)
class Founders:
    """The voters that founded the cluster, with the ids of their disks: the content of ``founders.json``."""

    founders: dict[Name, OptionalName]


class Voter:
    """Votes once this disk may; until then it asks the other voters and refuses."""

    def __init__(
        self,
        name: str,
        prefix: str,
        folder: Path,
        client: Client,
        voters: Mapping[str, Target],
        registers: Registers,
        keys: Callable[[], list[str]],
        on_crash: Callable[[BaseException], None],
        *,
        check: Check = anything,
        patience_s: float = PATIENCE_S,
        forgotten_votes_s: float = FORGOTTEN_VOTES_S,
    ) -> None:
        """Opens the memory in ``folder``, if there is one.

        ``voters`` are the configured ones; ``keys`` names the registers that must be learnt; ``on_crash``
        is told of a failed disk, after which the agent must not vote.

        Raises:
            Corrupt, DiskFailed: the memory cannot be used.
        """
        self._name = name
        self._prefix = prefix
        self._log_path = folder / "registers.log"
        self._founders_path = folder / "founders.json"
        self._client = client
        self._voters = dict(voters)
        self._registers = registers
        self._keys = keys
        self._on_crash = on_crash
        self._check = check
        self._patience_s = patience_s
        self._forgotten_votes_s = forgotten_votes_s
        self._disk_path = folder / "disk.id"
        self._changed = threads.condition()
        self._store: RegisterStore | None = None
        self._founders: Mapping[str, str] | None = None
        # Registers whose stored value is refused, and why.
        self._damaged: dict[str, InvalidMessage] = {}
        self._learning = False
        self._stopping = threads.event()
        self._thread = threads.thread(f"{prefix}-voter", self._run)
        try:
            disk.make_folder_durably(folder)
            remembers = disk.exists(self._log_path)
        except OSError as error:
            raise disk.failure(error, f"the folder {folder} of this voter cannot be used") from error
        if remembers:
            self._disk = ""  # only needed while there is no memory
            self._open(self._load_founders())
        else:
            self._disk = self._load_disk()
        registers.ask_own(self.endpoints(), lambda: self.votes)

    @property
    def votes(self) -> bool:
        """Tells whether this disk may vote."""
        return self._store is not None

    def start(self) -> None:
        """Begins to find out whether this disk may vote; the server must be listening."""
        if not self.votes:
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops asking and closes the log."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._store is not None:
            self._store.close()

    def endpoints(self) -> dict[str, Endpoint]:
        """Returns the endpoints for the voter's requests, named ``<prefix>.prepare`` and so on."""
        found = [
            endpoint(Prepare, self._vote),
            endpoint(Accept, self._vote),
            endpoint(Read, self._vote),
            endpoint(ListKeys, self._list),
            endpoint(AskStanding, self._stand),
        ]
        return {f"{self._prefix}.{each.request.kind}": each for each in found}

    def _vote(self, request: VoterRequest, call: Call) -> Answer:
        accepts = isinstance(request, Accept)
        if not isinstance(request, Read):  # any request that may store something
            self._check(request.key, request.value if isinstance(request, Accept) else None)
        store = self._opened()
        damage = self._damaged.get(request.key)
        if damage is not None and not accepts:
            raise Corrupt(
                f"{self._name} holds a value of register {request.key} that cannot be used: {damage.message}",
                hint="the other voters replace it with the next change of the register",
            )
        try:
            answer = store.apply(request)
        except DiskFailed as error:
            self._on_crash(error)
            raise
        if accepts and answer.voted:
            self._damaged.pop(request.key, None)
        return answer

    def _list(self, request: ListKeys, call: Call) -> Keys:
        limit = min(request.limit, KEYS_MAX)
        found = self._opened().keys(request.prefix, request.after, limit + 1 if limit else 0)
        more = bool(limit) and len(found) > limit
        return Keys(tuple(found[:limit] if more else found), more)

    def _stand(self, request: AskStanding, call: Call) -> Standing:
        with self._changed:
            return Standing(self._disk, None if self._founders is None else dict(self._founders))

    def _opened(self) -> RegisterStore:
        """Returns the store; while the cluster is being founded, waits until it is."""
        if self._store is not None:
            return self._store
        with self._changed:
            self._changed.wait_for(
                lambda: self._store is not None or self._learning or self._stopping.is_set(), HOLD_S
            )
            store = self._store
        if store is None:
            raise Unavailable(
                f"{self._name} does not vote yet: its disk is empty, it has to learn from the other voters",
                hint="a majority of the other voters must be up: fab status",
            )
        return store

    # Finding out whether this disk may vote

    def _run(self) -> None:
        begun_at = clock.monotonic()
        pause_s = POLL_S
        pool = Pool(f"{self._prefix}-voter-ask", max(1, len(self._voters)), max(1, len(self._voters)))
        try:
            while not self._stopping.wait(pause_s):
                if self._settle(pool, begun_at):
                    return
                pause_s = min(POLL_S_MAX, 1.2 * pause_s)
        except BaseException as error:
            logger.exception("voter_failed prefix=%s", self._prefix)
            self._on_crash(error)
        finally:
            pool.stop(drain=False, timeout_s=ASK_TIMEOUT_S + 1.0)

    def _settle(self, pool: Pool, begun_at: float) -> bool:
        """Returns whether it is settled that this disk votes."""
        names = [name for name in self._voters if name != self._name]
        asked = {name: pool.call(self._ask, name) for name in names}
        answers = {name: future.result() for name, future in asked.items()}
        others = {name: answer for name, answer in answers.items() if answer is not None}
        patient = clock.monotonic() - begun_at < self._patience_s
        found = judge(self._name, self._disk, list(self._voters), others, patient=patient)
        if found.verdict is Verdict.WAIT:
            return False
        slots: dict[str, Slot] = {}
        if found.verdict is Verdict.LEARN:
            try:
                learnt = self._learn(begun_at)
            except RainStormError as error:
                logger.info("voter_cannot_learn prefix=%s error=%s", self._prefix, error)
                return False
            if learnt is None:
                return True  # it is being stopped
            slots = learnt
        self._begin(slots, found.founders)
        logger.info(
            "voter_begins prefix=%s because=%s registers=%d", self._prefix, found.verdict.name, len(slots)
        )
        return True

    def _ask(self, name: str) -> Standing | None:
        kind = f"{self._prefix}.{AskStanding.kind}"
        try:
            found: Standing = self._client.ask(
                self._voters[name], AskStanding(), kind=kind, timeout_s=ASK_TIMEOUT_S
            ).message
        except RainStormError:
            return None
        return found

    def _learn(self, begun_at: float) -> dict[str, Slot] | None:
        """Returns what the other voters know, or None when the agent is being stopped meanwhile."""
        names = self._keys()
        with self._changed:
            if names and not self._learning:
                logger.warning("voter_state_lost prefix=%s registers=%d", self._prefix, len(names))
            self._learning = True
            self._changed.notify_all()
        left_s = self._forgotten_votes_s - (clock.monotonic() - begun_at) if names else 0.0
        if self._stopping.wait(max(0.0, left_s)):
            return None
        slots = {}
        for name in self._keys() if names else []:
            if self._stopping.is_set():
                return None
            slots[name] = self._registers.learn(name)
        return slots

    def _begin(self, slots: Mapping[str, Slot], founders: Mapping[str, str]) -> None:
        try:
            disk.write_durably(self._founders_path, json.dumps(dict(founders)).encode())
        except OSError as error:
            raise disk.failure(error, f"{self._founders_path} cannot be written") from error
        write_log(self._log_path, slots)
        self._open(founders)

    def _open(self, founders: Mapping[str, str]) -> None:
        try:
            # Not before the log is durable: if two of three founders lost power in between, they would wait
            # for each other indefinitely. From here on, a disk without a log no longer belongs to a founder.
            if disk.exists(self._disk_path):
                disk.remove_durably(self._disk_path)
        except OSError as error:
            raise disk.failure(error, f"{self._disk_path} cannot be removed") from error
        store = RegisterStore(self._log_path)
        self._set_damaged_aside(store)
        with self._changed:
            self._store, self._founders = store, founders
            self._changed.notify_all()

    def _set_damaged_aside(self, store: RegisterStore) -> None:
        names = store.keys()
        for key in names:
            try:
                self._check(key, store.slot(key).value)
            except InvalidMessage as error:
                logger.error("register_refused prefix=%s key=%s error=%s", self._prefix, key, error)
                self._damaged[key] = error

    def _load_disk(self) -> str:
        """Returns the id of this disk, drawn when there is none.

        A restart keeps it: if the others have meanwhile founded the cluster with this disk, it is still
        new, and they may be too few to learn from. An emptied disk gets another id.
        """
        try:
            if not disk.exists(self._disk_path):
                disk.write_durably(self._disk_path, threads.unique_id().encode())
            return disk.read_text(self._disk_path)
        except OSError as error:
            raise disk.failure(error, f"{self._disk_path} cannot be written") from error

    def _load_founders(self) -> Mapping[str, str]:
        try:
            found: Any = json.loads(disk.read_text(self._founders_path))
            return message.decode(Founders, {"founders": found}, "founders").founders
        except FileNotFoundError:
            return {}  # written by a release that did not record them
        except (OSError, ValueError, RecursionError, InvalidMessage) as error:
            raise Corrupt(
                f"{self._founders_path} does not name the founders: {error}",
                hint="empty this node's data folder: the node learns from the others",
            ) from None
