"""The entry point: exit statuses, messages about unusable configurations, and the ends of an agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __main__ as entry
from agent.__main__ import main
from agent.common import config as configuration
from agent.common.errors import DiskFailed, PortInUse
from agent.common.shell import logs, sdnotify, threads
from tests.support import wait_until

# An agent of these tests ends by itself at once.
AGENT_LIMIT_S = 20.0


def write(folder: Path, **changes: object) -> str:
    tls = {"ca": "ca.pem", "certificate": "n1.pem", "key": "n1.key"}
    config = {
        "cluster": "test",
        "name": "n1",
        "data_dir": str(folder),
        "tls": tls,
        "gossip_key": str(folder / "gossip.key"),
        "peers": [{"name": "n1", "address": "127.0.0.1"}],
        "voters": ["n1"],
        "introducers": ["n1"],
        **changes,
    }
    path = folder / "node.yaml"
    path.write_text(json.dumps(config))
    return str(path)


def test_a_valid_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["membership", "--config", write(tmp_path), "--check-config"]) == 0
    assert "node n1 of cluster test: valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clutser": "x"}, "did you mean 'cluster'?"),
        ({"membership": {"probe_intervall_s": 1}}, "did you mean 'probe_interval_s'?"),
        ({"rainstorm": {"task_launcher": "systemd"}}, "known: child, unit"),
        ({"voters": ["n7"]}, "node 'n7' is not among the configured peers"),
        ({"data_dir": 5}, "expected str, found 5"),
    ],
)
def test_a_wrong_one_ends_with_ex_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], said: str
) -> None:
    assert main(["membership", "--config", write(tmp_path, **changes), "--check-config"]) == 78
    found = capsys.readouterr().err
    assert "[CONFIG_INVALID]" in found
    assert said in found


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["membership", "--config", str(tmp_path / "none.yaml")]) == 78
    assert "no configuration at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["storage", "--config", "x"], "name one service: membership, hydfs, rainstorm, logs"),
        (["--config", "x"], "name one service"),
        (["membership", "logs", "--config", "x"], "name one service"),
        (["membership"], "--config is missing"),
        (["membership", "--config"], "option --config requires argument"),
        (["membership", "--config=x", "--verbose"], "option --verbose not recognized"),
    ],
)
def test_a_wrong_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("usage: python -m agent {membership,hydfs,rainstorm,logs} --config FILE")
    assert f"error: {said}" in shown


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_shown(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 0
    assert "only check the configuration" in capsys.readouterr().out


def test_a_membership_agent_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Each of these modules would cost every node from 0.2 to 1 MB."""
    program = (
        "import sys, agent.membership.service; from agent.__main__ import main;"
        f"main(['membership', '--config={write(tmp_path)}', '--check-config']);"
        "print({'yaml', 'argparse', 'shutil', 'tempfile', 'numpy', 'pyarrow'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert ended.stdout.decode().splitlines()[-1] == "set()"


class Notifier(sdnotify.Notifier):
    """Keeps the messages that it would send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, object]] = []

    def send(self, **values: object) -> None:
        self.sent.append(values)


class Service:
    """A service that runs a test's function once it has started."""

    def __init__(self, act: Callable[[Any], object], on_crash: Callable[[BaseException], None]) -> None:
        self.on_crash = on_crash
        self.stopped = False
        self._act = act

    def start(self) -> None:
        self._act(self)

    def stop(self, timeout_s: float) -> None:
        self.stopped = True

    def status(self) -> str:
        return "well"

    def loops(self) -> list[sdnotify.Loop]:
        return []


class Bench:
    """Runs an agent in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = write(folder)
        self.notifier = Notifier()
        self.services: list[Service] = []
        self._monkeypatch = monkeypatch

    def run(self, act: Callable[[Any], object]) -> int:
        def build(name: str, config: object, on_crash: Callable[[BaseException], None]) -> Service:
            self.services.append(Service(act, on_crash))
            return self.services[-1]

        self._monkeypatch.setattr(entry, "_build", build)
        # An agent that does not end would block this process.
        late = threading.Event()

        def end_it() -> None:
            late.set()
            os.kill(os.getpid(), signal.SIGTERM)

        timer = threading.Timer(AGENT_LIMIT_S, end_it)
        timer.start()
        try:
            return entry.run("membership", configuration.load(self.path), self.notifier)
        finally:
            timer.cancel()
            timer.join()
            assert not late.is_set(), "nothing ended the agent"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield Bench(tmp_path, monkeypatch)
    for number, handler in before:
        signal.signal(number, handler)


def die() -> None:
    raise ZeroDivisionError("planted")


def test_a_thread_that_dies_ends_the_agent_with_a_status_and_a_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.run(lambda service: threads.start("essential", die)) == 1
    assert "thread_died thread=essential" in caplog.text
    assert "agent_crashed service=membership error=thread essential died" in caplog.text
    assert "essential died" in str(bench.notifier.sent[-1]["STATUS"])
    assert bench.services[0].stopped


def test_a_crash_that_the_service_reports_ends_the_agent(bench: Bench) -> None:
    assert bench.run(lambda service: service.on_crash(DiskFailed("bad"))) == 1
    assert "bad" in str(bench.notifier.sent[-1]["STATUS"])


def test_a_signal_ends_the_agent_in_order(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def stop_soon(service: Service) -> None:
        def kill() -> None:
            wait_until(lambda: bench.notifier.sent, 5.0, "the agent is ready")
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=kill, name="kills").start()

    assert bench.run(stop_soon) == 0
    assert bench.notifier.sent[0]["READY"] == 1
    assert bench.notifier.sent[-1] == {"STOPPING": 1, "STATUS": "stopping"}
    assert "ready service=membership node=n1" in capsys.readouterr().err


def test_a_thread_that_dies_after_the_stop_was_asked_for_changes_nothing(bench: Bench) -> None:
    """The things that it uses may be closed by then; the death is still logged."""

    def stop(service: Service) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threads.start("late", die).join(5.0)

    before = threads.deaths()
    assert bench.run(stop) == 0
    assert threads.deaths() == before + 1


def fail_with(error: Exception) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"), [(PortInUse("taken", hint="ss -ltnp"), "PORT_IN_USE"), (OSError("EIO"), "DISK_FAILED")]
)
def test_an_agent_that_cannot_start_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: str,
) -> None:
    monkeypatch.setattr(entry, "run", fail_with(error))
    monkeypatch.setattr(logs, "configure", lambda level: None)
    assert main(["membership", "--config", write(tmp_path)]) == 1
    written = capsys.readouterr().err
    assert f"error: [{code}]" in written
    assert "hint: " in written
