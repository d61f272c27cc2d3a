"""The configuration of a node: frozen dataclasses, read from one YAML file; wrong keys are refused by name.

The same file serves all agents of a node. An unknown key is an error that names the nearest known one;
a value of the wrong type or out of range is an error that says what was expected.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Where one node of the cluster can be found."""

    name: str
    address: str
    membership_port: int = 7100
    hydfs_port: int = 7101
    rainstorm_port: int = 7102
    logs_port: int = 7103


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Paths of the PEM files of this node."""

    ca: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """The settings of SWIM (SWIM 4, Lifeguard 3).

    A crash reaches the view after about the sum of these: the wait for a first probe by any node
    (probe_interval_s on average, whatever N); probe_timeout_s until that probe has failed (0 when the
    machine answers "refused"); Smin = suspicion_min_probes * probe_interval_s * max(1, log10 N), if the
    others confirm in that time; view_batch_s. At N = 5 and at N = 10 that is 0.8 s. A probe lasts at least
    one interval.
    """

    probe_interval_s: float = 0.1
    probe_timeout_s: float = 0.25
    ack_timeout_s: float = 0.1
    indirect_probes: int = 3
    suspicion_min_probes: float = 3.0
    suspicion_max_factor: float = 6.0
    gossip_interval_s: float = 0.1
    gossip_fanout: int = 3
    heartbeat_interval_s: float = 0.125
    heartbeat_fanout: int = 2
    heartbeat_fail_s: float = 0.6
    detector: str = "swim"
    suspicion: bool = True
    view_batch_s: float = 0.15

    @property
    def probe_duration_s(self) -> float:
        """Returns how long a probe may take, with its indirect stage."""
        return max(self.probe_timeout_s, self.probe_interval_s)


ACKS = ("all", "quorum")
TASK_LAUNCHERS = ("child", "unit")


@dataclass(frozen=True, slots=True)
class HydfsConfig:
    """The settings of the store."""

    block_size_bytes: int = 8 * 1024 * 1024
    replicas: int = 3
    ack: str = "all"
    ack_timeout_s: float = 1.0
    reserve_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RainstormConfig:
    """The settings of the stream engine."""

    spare_tasks: int = 2
    # Who starts the task launcher: the agent, or systemd under a separate user.
    task_launcher: str = "child"
    task_memory_bytes: int = 1024 * 1024 * 1024
    batch_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """The logs that may be read, the limits of a search, and the collection into HyDFS.

    ``journal_units`` are patterns of units whose journal counts as this node's own logs. A search may also
    name ``system_files`` and ``system_units``.
    """

    journal_units: tuple[str, ...] = ("rainstorm-*",)
    system_files: tuple[str, ...] = ()
    system_units: tuple[str, ...] = ()
    search_time_limit_s: float = 300.0
    search_output_bytes: int = 256 * 1024 * 1024
    collect: bool = True
    collect_interval_s: float = 1.0
    # Collection waits until the cluster has started.
    collect_delay_s: float = 2.0
    # A node that catches up must leave bandwidth to the jobs.
    collect_bytes_per_s: int = 8 * 1024 * 1024
    spool_bytes: int = 64 * 1024 * 1024
    collected_file_bytes: int = 64 * 1024 * 1024
    collected_bytes: int = 1024 * 1024 * 1024
    collected_days: int = 14


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything one node needs to know."""

    cluster: str
    name: str
    data_dir: str
    tls: TlsConfig
    gossip_key: str
    peers: tuple[PeerConfig, ...]
    voters: tuple[str, ...]
    introducers: tuple[str, ...]
    # Where a system service keeps its sockets and log files; without these, below data_dir.
    run_dir: str | None = None
    log_dir: str | None = None
    log_level: str = "info"
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    hydfs: HydfsConfig = field(default_factory=HydfsConfig)
    rainstorm: RainstormConfig = field(default_factory=RainstormConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)

    def peer(self, name: str) -> PeerConfig:
        """Returns the entry of the node called ``name``.

        Raises:
            ConfigError: no such node is configured.
        """
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise ConfigError(f"node {name!r} is not among the configured peers", hint="add it to the inventory")

    @property
    def me(self) -> PeerConfig:
        """Returns this node's own entry."""
        return self.peer(self.name)

    def socket_path(self, service: str) -> str:
        """Returns the path of the Unix socket of a service of this node."""
        return str(Path(self.run_dir or Path(self.data_dir) / "run") / f"{service}.sock")

    def log_folder(self) -> Path:
        """Returns the folder of the files that this node's tasks log to."""
        return Path(self.log_dir or Path(self.data_dir) / "logs")


def _refuse(where: str, problem: str, hint: str) -> typing.NoReturn:
    raise ConfigError(f"{where}: {problem}", hint=hint)


def build(kind: type[Any], value: Any, where: str) -> Any:
    """Returns an instance of the dataclass ``kind`` from plain values.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; the message names the place.
    """
    if not isinstance(value, dict):
        _refuse(where, f"expected a mapping, found {type(value).__name__}", "see docs/architecture.md")
    hints = typing.get_type_hints(kind)
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key in value:
        if key not in known:
            near = _nearest(str(key), known)
            _refuse(
                where,
                f"unknown key {key!r}",
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
            )
    arguments = {}
    for name, entry in known.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            _refuse(where, f"missing key {name!r}", f"add '{name}:'")
    return kind(**arguments)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast("type[Any]", kind), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _refuse(where, f"expected a list, found {type(value).__name__}", "write it as [a, b]")
        inner = typing.get_args(kind)[0]
        return tuple(_convert(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        inner = next(option for option in typing.get_args(kind) if option is not type(None))
        return _convert(inner, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        _refuse(where, f"expected {kind.__name__}, found {value!r}", "correct the value")
    if kind in (int, float) and not 0 <= value < math.inf:  # NaN is refused, too
        _refuse(where, f"expected a number of 0 or more, found {value!r}", "correct the value")
    return value


def load(path: str) -> NodeConfig:
    """Reads and checks the configuration of a node.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe a node.
    """
    try:
        raw = _parse(path, Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}", hint="pass --config FILE") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="pass --config FILE") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", hint="correct the file") from None
    config: NodeConfig = build(NodeConfig, raw, path)
    names = [peer.name for peer in config.peers]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: two peers share a name", hint="give each node its own name")
    for name in (config.name, *config.voters, *config.introducers):
        config.peer(name)
    if not config.voters:
        _refuse(f"{path}.voters", "names no node", "name five nodes, three when there are fewer, or one")
    _check_promises(config.hydfs, f"{path}.hydfs")
    for name in ("collect_bytes_per_s", "spool_bytes", "collected_file_bytes", "search_output_bytes"):
        if getattr(config.logs, name) < 1:
            _refuse(f"{path}.logs.{name}", "must be at least 1", "correct the value")
    _check_choice(config.rainstorm.task_launcher, TASK_LAUNCHERS, f"{path}.rainstorm", "task_launcher")
    return config


def _parse(path: str, text: str) -> Any:
    """Returns what the file says, as plain values.

    The deploy and the local cluster write JSON, which is also YAML. Only a file in another form needs the
    YAML parser, which costs each agent 1 MB.
    """
    try:
        return json.loads(text)
    except ValueError:
        import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}", hint="correct the file") from None


def _check_promises(store: HydfsConfig, where: str) -> None:
    # A mistake here would otherwise weaken a guarantee silently.
    _check_choice(store.ack, ACKS, where, "ack")
    for name in ("replicas", "block_size_bytes"):
        if getattr(store, name) < 1:
            _refuse(f"{where}.{name}", "must be at least 1", "correct the value")


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    """Returns the known word that is most like ``word``, if one is like it at all."""
    import difflib  # 0.3 MB, which an agent whose configuration is right never needs

    return difflib.get_close_matches(word, known, n=1)


def _check_choice(value: str, known: tuple[str, ...], where: str, name: str) -> None:
    if value not in known:
        near = _nearest(value, known)
        _refuse(f"{where}.{name}", f"unknown {name} {value!r}", f"known: {', '.join(near or known)}")
