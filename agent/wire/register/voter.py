"""A voter: its register log, and the learning that comes before the first vote on an empty disk.

The rule is in ``agent.common.votermemory``. The log is there if and only if this disk may vote: it is made,
whole, when the voter is found to be new or has learnt, and the founders are on disk before it.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.common.errors import Corrupt, RainStormError, Unavailable
from agent.common.register import Slot
from agent.common.shell import clock, disk
from agent.common.votermemory import Standing, Verdict, judge
from agent.wire.client import Client, Target
from agent.wire.register.proposer import Registers, handlers
from agent.wire.register.store import RegisterStore, write_log
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.wire.register.voter")

KINDS = ("prepare", "accept", "read", "keys")
ASK_TIMEOUT_S = 1.0
POLL_S = 0.05
POLL_S_MAX = 1.0
# How long a cluster that is being founded waits for all of its voters before a majority founds it.
PATIENCE_S = 5.0
# A request of a cluster that is being founded waits for that; less than registers.VOTER_TIMEOUT_S.
HOLD_S = 0.8
# No proposal counts a vote for longer: a request to a voter ends after VOTER_TIMEOUT_S, once a thread has it.
FORGOTTEN_VOTES_S = 20.0


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
        patience_s: float = PATIENCE_S,
        forgotten_votes_s: float = FORGOTTEN_VOTES_S,
    ) -> None:
        """Opens the memory in ``folder``, if there is one.

        ``voters`` are the configured ones; ``keys`` names the registers that are to be learnt.

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
        self._patience_s = patience_s
        self._forgotten_votes_s = forgotten_votes_s
        self._disk_path = folder / "disk.id"
        self._changed = threading.Condition()
        self._store: RegisterStore | None = None
        self._founders: Mapping[str, str] | None = None
        self._learning = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{prefix}-voter", daemon=True)
        try:
            disk.make_folder_durably(folder)
            remembers = disk.exists(self._log_path)
        except OSError as error:
            raise disk.failure(error, f"the folder {folder} of this voter cannot be used") from error
        if remembers:
            self._disk = ""  # only asked for while there is no memory
            self._open(self._load_founders())
        else:
            self._disk = self._load_disk()

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

    def handlers(self) -> dict[str, Handler]:
        """Returns the request handlers: those of a voter, and ``<prefix>.memory``."""
        return {
            **{f"{self._prefix}.{kind}": self._vote for kind in KINDS},
            f"{self._prefix}.memory": self._memory,
        }

    def _vote(self, request: Request) -> Reply:
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
        return handlers(store, self._prefix)[request.type](request)

    def _memory(self, request: Request) -> Reply:
        with self._changed:
            return Reply({"disk": self._disk, "founders": self._founders and dict(self._founders)})

    # Finding out

    def _run(self) -> None:
        begun_at = clock.monotonic()
        pause_s = POLL_S
        try:
            with ThreadPoolExecutor(max(1, len(self._voters)), thread_name_prefix="voter-ask") as pool:
                while not self._stopping.wait(pause_s):
                    if self._settle(pool, begun_at):
                        return
                    pause_s = min(POLL_S_MAX, 1.2 * pause_s)
        except BaseException as error:
            logger.exception("voter_failed prefix=%s", self._prefix)
            self._on_crash(error)

    def _settle(self, pool: ThreadPoolExecutor, begun_at: float) -> bool:
        """Returns whether it is settled that this disk votes."""
        names = [name for name in self._voters if name != self._name]
        answers = zip(names, pool.map(self._ask, names), strict=True)
        others = {name: answer for name, answer in answers if answer is not None}
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
        try:
            fields = self._client.call(
                self._voters[name], f"{self._prefix}.memory", timeout_s=ASK_TIMEOUT_S
            ).fields
        except RainStormError:
            return None
        return Standing(str(fields["disk"]), fields["founders"])

    def _learn(self, begun_at: float) -> dict[str, Slot] | None:
        """Returns what the other voters know, or None when the agent is being stopped meanwhile."""
        names = self._keys()
        with self._changed:
            if names and not self._learning:
                logger.warning("voter_forgot prefix=%s registers=%d", self._prefix, len(names))
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
            # From here on a disk without a log has lost it, and is no founder's any more.
            disk.unlink(self._disk_path, missing_ok=True)
        except OSError as error:
            raise disk.failure(error, f"{self._founders_path} cannot be written") from error
        write_log(self._log_path, slots)
        self._open(founders)

    def _open(self, founders: Mapping[str, str]) -> None:
        store = RegisterStore(self._log_path)
        with self._changed:
            self._store, self._founders = store, founders
            self._changed.notify_all()

    def _load_disk(self) -> str:
        """Returns the id of this disk, drawn when there is none.

        A restart keeps it: when the others have founded the cluster with this disk meanwhile, it is new
        still, and they may be too few to learn from. A disk that was emptied gets another one.
        """
        try:
            if not disk.exists(self._disk_path):
                disk.write_durably(self._disk_path, uuid.uuid4().hex.encode())
            return disk.read_text(self._disk_path)
        except OSError as error:
            raise disk.failure(error, f"{self._disk_path} cannot be written") from error

    def _load_founders(self) -> dict[str, str]:
        try:
            found = json.loads(disk.read_text(self._founders_path))
            return {str(name): str(identity) for name, identity in found.items()}
        except FileNotFoundError:
            return {}  # of a release that did not record them
        except (OSError, ValueError, AttributeError) as error:
            raise Corrupt(
                f"{self._founders_path} does not name the founders: {error}",
                hint="empty this node's data folder: the node learns from the others",
            ) from None
