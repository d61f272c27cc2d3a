"""Figures of the experiments: medians with all points, readable in greyscale, reproducible from the same
data.

Series differ by marker and dash as well as by colour (Okabe and Ito's palette, whose colours also differ in
lightness). Figures have no titles, because the text that shows a figure contains its caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("paper.mplstyle")
ONE_COLUMN_IN = 3.33
TWO_COLUMNS_IN = 7.0


@dataclass(frozen=True, slots=True)
class Look:
    """The style of one series."""

    colour: str
    marker: str
    dash: str


LOOKS = (
    Look("#0072B2", "o", "-"),
    Look("#56B4E9", "s", "--"),
    Look("#D55E00", "^", "-."),
    Look("#E69F00", "D", ":"),
    Look("#000000", "v", "-"),
)


def figure(*, width_in: float = ONE_COLUMN_IN, height_in: float = 2.4) -> tuple[Figure, Axes]:
    """Returns an empty figure with one pair of axes."""
    found, axes = panels(1, width_in=width_in, height_in=height_in)
    return found, axes[0]


def panels(count: int, *, width_in: float, height_in: float) -> tuple[Figure, list[Axes]]:
    """Returns an empty figure with several pairs of axes side by side."""
    mpl.style.use(STYLE)
    found, grid = plt.subplots(1, count, figsize=(width_in, height_in), squeeze=False)
    return found, list(grid[0])


def medians_and_points(
    axes: Axes,
    series: Mapping[float, Sequence[float]],
    label: str,
    place: int,
    *,
    offset: float = 0.0,
    joined: bool = True,
) -> None:
    """Draws every value as a small hollow point and the medians as markers, ``joined`` if the positions are
    ordered.
    """
    look = LOOKS[place]
    places = sorted(series)
    if not places:
        return
    for at in places:
        values = series[at]
        axes.plot(
            [at + offset] * len(values),
            values,
            linestyle="none",
            marker=look.marker,
            markersize=3,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markeredgewidth=0.6,
            alpha=0.8,
        )
    axes.plot(
        [at + offset for at in places],
        [median(series[at]) for at in places],
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash if joined else "none",
        label=label,
    )


def median(values: Sequence[float]) -> float:
    """Returns the median."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def legend(axes: Axes, columns: int = 4) -> None:
    """Puts the legend above the axes, where it hides no point."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2)


def save(found: Figure, path: Path) -> None:
    """Writes the figure; the suffix of ``path`` selects the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    found.savefig(path, metadata=metadata)
    plt.close(found)
