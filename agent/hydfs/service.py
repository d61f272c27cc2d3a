"""The store agent: builds its parts, listens, stops them in order."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agent.common.config import NodeConfig
from agent.common.errors import AlreadyRunning
from agent.common.shell import disk
from agent.hydfs.core import filetable
from agent.hydfs.shell.gateway import Gateway
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.node import Engine
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.put import Puts
from agent.hydfs.shell.repair import Repair
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.view import MembershipView, ViewSource
from agent.membership.attachment import Attachment
from agent.wire import auth
from agent.wire.client import Address, Client, Target, dial_from
from agent.wire.endpoint import by_kind
from agent.wire.register import proposer as voting
from agent.wire.register.proposer import Registers
from agent.wire.register.voter import Voter
from agent.wire.server import Server

logger = logging.getLogger("agent.hydfs")


class Service:
    """The store agent of one node."""

    def __init__(
        self,
        config: NodeConfig,
        on_crash: Callable[[BaseException], None],
        views: ViewSource | None = None,
    ) -> None:
        self.config = config
        knobs = config.hydfs
        root = Path(config.data_dir) / "hydfs"
        self._lock = _lock(root, config.name)
        self._client = Client(auth.client_context(config.tls), dial=dial_from(config.me.address))
        self._followed: MembershipView | None = None
        if views is None:
            nodes = [peer.name for peer in config.peers]
            self._followed = MembershipView(self._client, config.socket_path("membership"), nodes)
        self.views: ViewSource = views or self._followed  # type: ignore[assignment]
        self._on_crash = on_crash
        self._new_disk = NewDisk(root)
        self._store = Store(root, reserve_bytes=knobs.reserve_bytes, on_crash=on_crash)
        targets: dict[str, Target] = {
            peer.name: Address(peer.address, peer.hydfs_port, peer.name) for peer in config.peers
        }
        voters = voting.voter_targets(config.voters, lambda name: targets[name])
        self._registers = registers = Registers(config.name, "file", self._client, voters)
        self._voter: Voter | None = None
        if config.name in config.voters:
            self._voter = Voter(
                config.name,
                "file",
                root,
                self._client,
                voters,
                registers,
                registers.keys,
                on_crash,
                check=filetable.check,
            )
        self._peers = Peers(config.name, self._client, targets, lambda: self.views.current().version)
        if self._followed is not None:
            self._peers.on_suspect = self._followed.hint
        self._server = Server("hydfs", {})
        self._task_server = Server("hydfs-task", {})
        self._attachment = Attachment(
            config.socket_path("membership"), "hydfs", lambda: self._server.heard_at
        )
        self._replicas: Replicas | None = None
        self._gateway: Gateway | None = None
        self._puts: Puts | None = None
        self._repair: Repair | None = None

    def start(self) -> None:
        """Recovers the store and listens.

        Raises:
            RainStormError: the disk or the address cannot be used.
        """
        config, knobs = self.config, self.config.hydfs
        self._store.start()
        self._replicas = replicas = Replicas(
            self._store,
            self._peers,
            self._registers,
            self.views,
            self._new_disk,
            replicas=knobs.replicas,
            block_size_bytes=knobs.block_size_bytes,
            ack_timeout_s=knobs.ack_timeout_s,
        )
        replicas.engine = Engine(replicas.core, replicas.execute, self._on_crash, replicas.refuse_waiters)
        self._gateway = gateway = Gateway(
            replicas,
            self._peers,
            self._registers,
            self.views,
            block_size_bytes=knobs.block_size_bytes,
            ack=knobs.ack,
            ack_timeout_s=knobs.ack_timeout_s,
        )
        self._puts = puts = Puts(
            replicas,
            self._peers,
            self._registers,
            self.views,
            block_size_bytes=knobs.block_size_bytes,
            ack=knobs.ack,
        )
        self._repair = repair = Repair(
            replicas,
            self._store,
            self._peers,
            self._registers,
            self.views,
            self._new_disk,
            replicas=knobs.replicas,
            put_is_alive=puts.is_alive,
            votes=lambda: self._voter is None or self._voter.votes,
            tidy=self._tidy,
        )
        endpoints = by_kind(
            *replicas.endpoints(), *gateway.endpoints(), *puts.endpoints(), *repair.endpoints()
        )
        self._peers.endpoints = endpoints
        self._server = Server("hydfs", endpoints)
        if self._voter is not None:
            self._server.add(self._voter.endpoints())
        self._task_server = Server("hydfs-task", by_kind(*gateway.task_endpoints()))
        replicas.sealer.on_missing_copies = repair.look_at
        replicas.engine.start()
        if self._followed is not None:
            self._followed.start()
            self._attachment.start()
        me = config.me
        self._server.listen_tls(me.address, me.hydfs_port, auth.server_context(config.tls))
        self._server.listen_unix(config.socket_path("hydfs"))
        # In a separate folder, which belongs to the tasks' group on real machines (setgid, made at boot).
        self._task_server.listen_unix(config.socket_path("task/hydfs"))
        if self._voter is not None:
            self._voter.start()
        repair.start()
        logger.info("hydfs_started node=%s blocks=%d", config.name, len(self._store.index))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops listening, then stops the parts below."""
        self._attachment.stop(timeout_s)
        if self._followed is not None:
            self._followed.stop(timeout_s)
        if self._gateway is not None:
            self._gateway.close()
        if self._repair is not None:
            self._repair.stop(timeout_s)
        self._server.stop(timeout_s)
        self._task_server.stop(timeout_s)
        if self._puts is not None:
            self._puts.close()
        if self._replicas is not None:
            if self._replicas.engine is not None:
                self._replicas.engine.stop(timeout_s)
            self._replicas.close()
        self._peers.close()
        self._registers.close()
        self._store.stop(timeout_s)
        self._client.close()
        if self._voter is not None:
            self._voter.stop(timeout_s)
        disk.close(self._lock)

    def _tidy(self) -> None:
        if self._puts is not None:
            self._puts.abandon_idle()
        if self._replicas is not None:
            self._replicas.transfers.abandon_idle()

    def loops(self) -> list[Engine]:
        """Returns the loops that must make progress while the service lives."""
        engine = self._replicas.engine if self._replicas is not None else None
        return [engine] if engine is not None else []

    def status(self) -> str:
        """Returns one line about the agent's state."""
        states = Counter(meta.state for meta in list(self._store.index.values()))
        blocks = " ".join(f"{state}={count}" for state, count in sorted(states.items())) or "empty"
        return blocks if self._voter is None or self._voter.votes else f"{blocks}, does not vote yet"


def _lock(root: Path, node: str) -> int:
    # Recovery cuts torn tails, so a second agent on the same folder must be refused before it reads anything.
    disk.make_folder_durably(root)
    descriptor = disk.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        disk.lock(descriptor)
    except BlockingIOError:
        disk.close(descriptor)
        raise AlreadyRunning(
            f"a store agent of {node} already uses {root}", hint="stop it first, or see: fab status"
        ) from None
    return descriptor
