"""Which files are logs: rotation by name, files that are skipped, and files that the configuration allows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest

from agent.common.errors import Forbidden, NotFound
from agent.logs.shell import sources


def test_names_of_rotated_files() -> None:
    assert sources.name_parts("tasks.log") == ("tasks.log", 0, "")
    assert sources.name_parts("tasks.log.12.gz") == ("tasks.log", 12, ".gz")
    assert sources.name_parts("app.v1.log") == ("app.v1.log", 0, "")
    log, age, packed = sources.name_parts("messages-20261120.xz")
    assert (log, packed) == ("messages", ".xz")
    assert age > sources.name_parts("messages-20261121")[1] > 0


def test_files_come_log_by_log_the_oldest_first_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.log", "a.log", "a.log.2.gz", "a.log.10", "a.log.1", ".hidden", "bad\nname"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.log").symlink_to(tmp_path / "a.log")
    os.mkfifo(tmp_path / "pipe.log")
    found = [each.label for each in sources.in_folder(tmp_path)]
    assert found == ["a.log.10", "a.log.2.gz", "a.log.1", "a.log", "b.log"]
    assert [each.label for each in sources.in_folder(tmp_path, ["a.log", "b*"])] == ["a.log", "b.log"]
    assert sources.in_folder(tmp_path / "absent") == []
    for name in ("link.log", "pipe.log", "folder"):
        with pytest.raises(OSError, match=r"symbolic links|not a regular file"):
            sources.open_regular(str(tmp_path / name))


@pytest.mark.slow
def test_compressed_files_are_read_from_any_place(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (tmp_path / f"a.log.1{suffix}").write_bytes(pack(data))
    for file in sources.in_folder(tmp_path):
        assert sources.unpacked_part(file, 3_000_001, 1000) == data[3_000_001:3_001_001]
        assert sources.unpacked_part(file, len(data) - 5, 1000) == data[-5:]
        (tmp_path / file.label).write_bytes((tmp_path / file.label).read_bytes()[:-20])
        with pytest.raises(OSError, match="damaged"):
            sources.unpacked_part(file, 0, len(data) + 1)


def test_only_what_the_configuration_allows_is_read_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "syslog").write_text("x\n")
    (tmp_path / "shadow").write_text("x\n")
    allowed = [f"{tmp_path}/sys*"]
    assert [each.path for each in sources.system_files([f"{tmp_path}/syslog"], allowed)] == [
        f"{tmp_path}/syslog"
    ]
    with pytest.raises(Forbidden):
        sources.system_files([f"{tmp_path}/shadow"], allowed)
    with pytest.raises(NotFound):
        sources.system_files([f"{tmp_path}/sysabsent"], allowed)
    with pytest.raises(Forbidden):
        sources.system_files(["/etc/passwd"], [])


def test_a_file_whose_name_belongs_to_another_one_by_now_is_not_read(tmp_path: Path) -> None:
    """It was rotated after the folder was read, so its lines would count for the wrong file."""
    (tmp_path / "a.log").write_text("old\n")
    (file,) = sources.in_folder(tmp_path)
    with sources.opened(file) as descriptor:
        assert os.pread(descriptor, 10, 0) == b"old\n"
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    (tmp_path / "a.log").write_text("new\n")
    with pytest.raises(OSError, match="another file now"), sources.opened(file):
        pass


def test_a_compressed_file_whose_name_belongs_to_another_one_by_now_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log.1.gz"
    path.write_bytes(gzip.compress(b"old\n"))
    (file,) = sources.in_folder(tmp_path)
    assert sources.unpacked_part(file, 0, 10) == b"old\n"
    path.rename(tmp_path / "a.log.2.gz")
    path.write_bytes(gzip.compress(b"new\n"))
    with pytest.raises(OSError, match="another file now"):
        sources.unpacked_part(file, 0, 10)
