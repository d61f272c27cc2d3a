"""``python -m agent SERVICE --config FILE``: one agent as one process.

It logs to stderr, prints one line ``ready service=… node=…`` when the service answers, and tells systemd the
same if systemd started it. It runs until SIGTERM or SIGINT asks it to stop or a thread dies of an exception.
Exit status: 0 after a requested stop, 78 (EX_CONFIG) for an unusable configuration, otherwise 1.
"""

from __future__ import annotations

import faulthandler
import getopt
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn, Protocol

from agent.common import config as configuration
from agent.common.config import NodeConfig
from agent.common.errors import ConfigError, DiskFailed, RainStormError
from agent.common.shell import logs, sdnotify, threads

logger = logging.getLogger("agent.main")

SERVICES = ("membership", "hydfs", "rainstorm", "logs")
EX_USAGE = 2
EX_CONFIG = 78
USAGE = f"usage: python -m agent {{{','.join(SERVICES)}}} --config FILE [--check-config]"
HELP = f"""{USAGE}

Runs one agent of a node.

  --config FILE   the node's configuration (YAML)
  --check-config  only check the configuration"""
STOP_TIMEOUT_S = 5.0


class Service(Protocol):
    """What this module needs of every agent."""

    def start(self) -> None:
        """Returns when the service answers requests."""

    def stop(self, timeout_s: float) -> None:
        """Ends all threads of the service."""

    def status(self) -> str:
        """Returns one line for the operator."""

    def loops(self) -> Iterable[sdnotify.Loop]:
        """Returns the loops that must make progress while the service lives."""


class Options(NamedTuple):
    """The parsed command line."""

    service: str
    config: str
    check_config: bool


def _parse(arguments: Sequence[str]) -> Options:
    # Not argparse: with the modules that it imports, each agent would keep 0.7 MB for these few lines.
    try:
        found, services = getopt.gnu_getopt(list(arguments), "h", ["help", "config=", "check-config"])
    except getopt.GetoptError as error:
        _refuse(str(error))
    options = dict(found)
    if "-h" in options or "--help" in options:
        print(HELP)
        sys.exit(0)
    if len(services) != 1 or services[0] not in SERVICES:
        _refuse(f"name one service: {', '.join(SERVICES)}")
    if "--config" not in options:
        _refuse("--config is missing")
    return Options(services[0], options["--config"], "--check-config" in options)


def _refuse(problem: str) -> NoReturn:
    print(f"{USAGE}\nerror: {problem}", file=sys.stderr)
    sys.exit(EX_USAGE)


def _build(name: str, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> Service:
    # Only the requested service is imported: membership must not carry the memory of the others.
    module = importlib.import_module(f"agent.{name}.service")
    service: Service = module.Service(config, on_crash)
    return service


def _report(error: RainStormError) -> None:
    print(f"error: [{error.code}] {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def run(name: str, config: NodeConfig, notifier: sdnotify.Notifier) -> int:
    """Runs a service until a signal or a crash and returns the exit status.

    Any thread that dies of an exception ends the agent: otherwise its work would silently stop. The
    service manager, or the launcher of a local cluster, starts it again.
    """
    ended = threads.event()
    crashes: list[str] = []

    def on_crash(error: BaseException) -> None:
        crashes.append(repr(error))
        ended.set()

    def on_death(thread: str, error: BaseException) -> None:
        if not ended.is_set():  # after the end, things that a thread uses may be closed already
            crashes.append(f"thread {thread} died: {error!r}")
            ended.set()

    def on_signal(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    threads.on_death(on_death)
    try:
        _serve(_build(name, config, on_crash), name, config, notifier, ended, crashes)
    finally:
        threads.on_death(None)
    if crashes:
        logger.error("agent_crashed service=%s error=%s", name, crashes[0])
        return 1
    logger.info("agent_stopped service=%s", name)
    return 0


def _serve(
    service: Service,
    name: str,
    config: NodeConfig,
    notifier: sdnotify.Notifier,
    ended: threads.Event,
    crashes: list[str],
) -> None:
    watchdog = sdnotify.Watchdog(notifier, service)
    try:
        service.start()
        # One write: print() would let a line that another thread logs come between the text and its newline.
        sys.stderr.write(f"ready service={name} node={config.name}\n")
        sys.stderr.flush()
        notifier.send(READY=1, STATUS=service.status())
        if notifier:
            watchdog.start()
        ended.wait()
    finally:
        notifier.send(STOPPING=1, STATUS=f"stopping: {crashes[0]}" if crashes else "stopping")
        watchdog.stop(STOP_TIMEOUT_S)
        service.stop(STOP_TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    notifier = sdnotify.take(os.environ)
    try:
        config = configuration.load(options.config)
        if options.check_config:
            print(f"{options.config}: node {config.name} of cluster {config.cluster}: valid")
            return 0
        logs.configure(config.log_level)
        return run(options.service, config, notifier)
    except ConfigError as error:
        _report(error)
        return EX_CONFIG
    except RainStormError as error:
        _report(error)
        return 1
    except OSError as error:
        _report(DiskFailed(f"{options.service} cannot start: {error}", hint="see the agent's log; df -h"))
        return 1


if __name__ == "__main__":
    # When the watchdog ends the process (SIGABRT) or C code crashes, the stacks of all threads go to the log.
    faulthandler.enable()
    sys.exit(main())
