"""The store on full disks: appends continue elsewhere; a full cluster reports that and loses nothing."""

from __future__ import annotations

import io
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import DiskFull, NotFound
from tests.integration.hydfs_cluster import HydfsCluster

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_of_one_node(small_disk: Path) -> None:
    with HydfsCluster(5, hydfs={"reserve_bytes": 8 * MIB}) as cluster:
        os.symlink(small_disk, cluster.data_dir("vm2"))
        cluster.start()
        client = cluster.hydfs("vm1")
        data = random.Random(3).randbytes(40 * MIB)
        client.put("big", io.BytesIO(data))
        client.create("log")
        piece = b"p" * MIB
        for sequence in range(40):
            assert client.append("log", piece, writer="w", sequence=sequence).copies == 3
        assert client.stat("log").length == 40 * MIB
        sink = io.BytesIO()
        client.get("big", sink)
        assert sink.getvalue() == data
        assert cluster.processes["vm2"].poll() is None, "a full disk must not stop the agent"


def test_full_disk_everywhere_is_one_clear_error(small_disk: Path) -> None:
    with HydfsCluster(3, hydfs={"reserve_bytes": 8 * MIB}) as cluster:
        for name in cluster.names:
            (small_disk / name).mkdir()
            os.symlink(small_disk / name, cluster.data_dir(name))
        cluster.start()
        client = cluster.hydfs("vm1")
        client.create("log")
        acked = 0

        def fill() -> None:
            nonlocal acked
            for sequence in range(40):
                client.append("log", b"p" * MIB, writer="w", sequence=sequence)
                acked += 1

        with pytest.raises(DiskFull):
            fill()
        with pytest.raises(DiskFull):
            client.put("big", io.BytesIO(b"q" * (16 * MIB)))
        assert client.stat("log").length == acked * MIB
        with pytest.raises(NotFound):
            client.stat("big")
