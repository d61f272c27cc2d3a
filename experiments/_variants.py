"""The ways to detect failures that experiments compare, and the options that choose among them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import yaml

from agent.common.errors import UsageError


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to detect failures."""

    detector: str
    suspicion: bool

    def __str__(self) -> str:
        return f"{self.detector}{'+suspicion' if self.suspicion else ''}"


VARIANTS = tuple(Variant(d, s) for d in ("swim", "heartbeat") for s in (True, False))


def variant_named(name: str) -> Variant:
    """Returns the variant whose text form is ``name``.

    Raises:
        UsageError: there is no such variant.
    """
    for variant in VARIANTS:
        if str(variant) == name:
            return variant
    raise UsageError(f"there is no variant {name!r}", hint=f"known: {', '.join(map(str, VARIANTS))}")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options about the agents: their number, the variants, settings of their configuration."""
    parser.add_argument(
        "--variants", nargs="+", default=[str(v) for v in VARIANTS], metavar="VARIANT", help="%(default)s"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        help="a setting in the membership section of the configuration, such as probe_interval_s=0.5",
    )


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that were given; the agents reject unknown ones."""
    pairs = [text.partition("=") for text in options.settings]
    return {knob.strip(): yaml.safe_load(value) for knob, _, value in pairs}
