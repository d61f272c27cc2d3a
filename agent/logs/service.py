"""The logs agent: builds its parts, listens, and stops them in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.common.config import NodeConfig
from agent.common.shell.sdnotify import Loop
from agent.hydfs.client import HydfsClient
from agent.logs.core.collector import RECORD_BYTES_MAX
from agent.logs.messages import AskCollection, CollectionStatus
from agent.logs.shell.archive import Archive
from agent.logs.shell.collector import Collection
from agent.logs.shell.follower import Follower
from agent.logs.shell.searches import Searches
from agent.membership.attachment import Attachment
from agent.wire import auth
from agent.wire.client import Client, dial_from
from agent.wire.endpoint import Call, by_kind, endpoint
from agent.wire.server import Server


class Service:
    """The logs agent of one node."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self._config = config
        self._client = Client(auth.client_context(config.tls), dial=dial_from(config.me.address))
        folder = config.log_folder()
        hydfs = HydfsClient(self._client, config.socket_path("hydfs"))
        self._searches = Searches(folder, config.logs, Archive(hydfs))
        self._collection: Collection | None = None
        if config.logs.collect:
            self._collection = Collection(
                config.name,
                folder,
                Path(config.data_dir) / "logspool",
                config.logs,
                hydfs,
                # Two bytes less, because a line end may be added before and behind a record.
                record_bytes_max=min(RECORD_BYTES_MAX, config.hydfs.block_size_bytes // 4 - 2),
                on_crash=on_crash,
            )
        self._follower = Follower(folder, config.logs.journal_units)
        endpoints = by_kind(
            endpoint(AskCollection, self._collection_status),
            self._follower.endpoint(),
            *self._searches.endpoints(),
        )
        self._server = Server(f"logs-{config.name}", endpoints)
        self._attachment = Attachment(config.socket_path("membership"), "logs", lambda: self._server.heard_at)

    def start(self) -> None:
        """Starts to serve.

        Raises:
            PortInUse: another process has the port.
        """
        me = self._config.me
        self._server.listen_tls(me.address, me.logs_port, auth.server_context(self._config.tls))
        self._server.listen_unix(self._config.socket_path("logs"))
        self._attachment.start()
        if self._collection is not None:
            self._collection.start()

    def status(self) -> str:
        """Returns one line for the operator."""
        if self._collection is None:
            return self._searches.status()
        found = self._collection.status()
        waiting = f"{found.waiting_bytes} bytes wait for HyDFS"
        return ", ".join(filter(None, [self._searches.status(), waiting, found.trouble]))

    def loops(self) -> list[Loop]:
        """Returns the loops that must make progress while the service lives."""
        return [self._collection] if self._collection is not None else []

    def stop(self, timeout_s: float) -> None:
        """Ends all searches and threads."""
        self._attachment.stop(timeout_s)
        self._follower.stop()
        self._server.stop(timeout_s)
        self._searches.stop(timeout_s)
        if self._collection is not None:
            self._collection.stop(timeout_s)
        self._client.close()

    def _collection_status(self, request: AskCollection, call: Call) -> CollectionStatus:
        return CollectionStatus(False) if self._collection is None else self._collection.status()
