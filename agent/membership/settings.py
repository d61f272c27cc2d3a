"""The settings of failure detection: which detector, and whether it suspects before it declares death.

There is one value for the whole cluster. Every datagram carries the sender's value. Of two different values,
the greater one wins: by version, then by content, so that any two nodes choose the same. A node that joins
learns the value with the first datagram. Nothing is stored: a cluster that was stopped starts again with the
configured value, as version 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from agent.common.config import MembershipConfig
from agent.common.errors import ConfigError, UsageError


class DetectorKind(IntEnum):
    """The failure detectors."""

    SWIM = 0
    HEARTBEAT = 1

    @property
    def label(self) -> str:
        """Returns the word that users see."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class Settings:
    """One version of the settings; the order of the fields is the order of precedence."""

    version: int = 0
    detector: DetectorKind = DetectorKind.SWIM
    suspicion: bool = True

    def changed(self, detector: DetectorKind, suspicion: bool) -> Settings:
        """Returns the next version with this content."""
        return replace(self, version=self.version + 1, detector=detector, suspicion=suspicion)


def detector_named(name: str) -> DetectorKind:
    """Returns the detector that users call ``name``.

    Raises:
        UsageError: no detector has that name.
    """
    for kind in DetectorKind:
        if kind.label == name:
            return kind
    known = ", ".join(kind.label for kind in DetectorKind)
    raise UsageError(f"there is no failure detector {name!r}", hint=f"known: {known}")


def initial(config: MembershipConfig) -> Settings:
    """Returns version 0, as configured.

    Raises:
        ConfigError: the configuration names a detector that does not exist.
    """
    try:
        return Settings(0, detector_named(config.detector), config.suspicion)
    except UsageError as error:
        raise ConfigError(f"membership.detector: {error.message}", hint=error.hint) from None
