"""One style for every figure: importing it sets matplotlib's defaults, which pandas' `.plot` follows as well."""

from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

# Okabe and Ito's palette, made for colour-blind readers; the grey is dark enough to differ from its purple and green.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
LINES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
HATCHES = ("", "//", "..", "xx", "\\\\", "--")
# a colour and a line style for the first series, the second, ...; `ax.plot(x, y, **look)`
LOOKS = tuple(cycler(color=(BLUE, ORANGE, GREEN, PURPLE, GREY, "black")) + cycler(linestyle=LINES))

plt.rcParams |= {
    "axes.prop_cycle": cycler(color=[look["color"] for look in LOOKS]) + cycler(linestyle=LINES),
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 80,  # of the size shown; `_alt` stores twice as many
    "figure.figsize": (6.5, 3),
    "grid.alpha": 0.3,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.handlelength": 3.0,
    "patch.linewidth": 0.6,
}


def panels(count: int, title: str, per_row: int = 3, size: tuple[float, float] = (2.8, 2.1), **kwargs: Any) -> Figure:
    """A figure with `count` panels under one title, `figure.axes`; `size` is each one's, in inches."""
    across = min(per_row, count)
    down = -(-count // across)
    whole = size[0] * across, size[1] * down + 0.5
    figure, axes = plt.subplots(down, across, figsize=whole, squeeze=False, **kwargs)
    for ax in axes.flat[count:]:
        ax.remove()
    figure.suptitle(title)
    return figure


def hatch(ax: Axes, **legend: Any) -> None:
    """A pattern for each series of bars, so that they can be told apart without colour, and a legend."""
    series = [c for c in ax.containers if isinstance(c, BarContainer)]
    for bars, pattern in zip(series, HATCHES, strict=False):
        for bar in bars:
            bar.set(hatch=pattern, edgecolor="black")
    ax.legend(**legend)
