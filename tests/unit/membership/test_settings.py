"""The settings of failure detection: one value wins everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.common.config import MembershipConfig
from agent.common.errors import ConfigError, UsageError
from agent.membership.settings import DetectorKind, Settings, detector_named, initial


def test_a_later_version_wins_and_equal_ones_are_ordered_by_content() -> None:
    first = initial(MembershipConfig())
    assert first == Settings(0, DetectorKind.SWIM, True)
    one = first.changed(DetectorKind.HEARTBEAT, False)
    other = first.changed(DetectorKind.SWIM, True)
    assert one.version == other.version == 1
    assert max(one, other) == max(other, one) == one
    assert other.changed(DetectorKind.SWIM, False) > one


def test_a_detector_has_the_name_that_users_know() -> None:
    assert [detector_named(kind.label) for kind in DetectorKind] == list(DetectorKind)
    with pytest.raises(UsageError, match="no failure detector 'raft'") as refused:
        detector_named("raft")
    assert "swim, heartbeat" in refused.value.hint


def test_a_configuration_that_names_no_detector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"membership\.detector"):
        initial(replace(MembershipConfig(), detector="raft"))
