"""One small lab for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.sandbox import LabSandbox, network_traces, why_not


@pytest.fixture(scope="session")
def lab() -> Iterator[LabSandbox]:
    """A lab of three VMs, which must leave nothing behind."""
    if reason := why_not():
        pytest.skip(reason)
    sandbox = LabSandbox(f"test-{os.getpid()}")
    try:
        ended = sandbox.fab("lab.up", "--vms", "3")
        assert ended.status == 0, ended.err
        subnet = sandbox.lab.plan().subnet
        yield sandbox
    finally:
        down = sandbox.fab("lab.down")
    assert down.status == 0, down.err
    assert sandbox.traces() + network_traces(subnet) == []


@pytest.fixture
def healed(lab: LabSandbox) -> Iterator[LabSandbox]:
    """The lab, which is healed after the test."""
    yield lab
    ended = lab.fab("fault.heal")
    assert ended.status == 0, ended.err
    assert lab.json("fault.list")["faults"] == []
