"""The settings of failure detection: precedence, names, and the configured ones."""

from __future__ import annotations

import pytest

from agent.common.config import MembershipConfig
from agent.common.errors import ConfigError, UsageError
from agent.membership.settings import DetectorKind, Settings, detector_named, initial


def test_greater_version_wins_and_then_the_content() -> None:
    first = Settings()
    later = first.changed(DetectorKind.HEARTBEAT, False)
    assert later == Settings(1, DetectorKind.HEARTBEAT, False)
    assert first < later
    assert Settings(1, DetectorKind.SWIM, True) < Settings(1, DetectorKind.HEARTBEAT, False)


def test_detector_is_found_by_its_name() -> None:
    assert [detector_named(kind.label) for kind in DetectorKind] == list(DetectorKind)
    with pytest.raises(UsageError, match="'sonar'") as caught:
        detector_named("sonar")
    assert caught.value.hint == "known: swim, heartbeat"


def test_configured_settings_are_version_0() -> None:
    assert initial(MembershipConfig(detector="heartbeat", suspicion=False)) == Settings(
        0, DetectorKind.HEARTBEAT, False
    )
    with pytest.raises(ConfigError, match="detector"):
        initial(MembershipConfig(detector="sonar"))
