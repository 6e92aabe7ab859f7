"""Figures of recorded runs: the signals of a log side by side, and the lengths of replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..rewards import short_name
from ._style import BLUE, GREY
from .rewards import LINES
from .training import POINTS, SIGNALS, smooth

DPI = 80  # many panels in one notebook, which is to stay small


def _signal(column: str) -> tuple[str, str]:
    """Title and unit of a panel; a reward function that SIGNALS does not know pays points."""
    name = short_name(column.removeprefix("rewards/").removesuffix("/mean"))
    return SIGNALS.get(column, (name, POINTS if column.startswith("rewards/") else "no unit"))


def plot_signals(
    runs: Mapping[str, pd.DataFrame], columns: Sequence[str] = tuple(SIGNALS), title: str = "", per_row: int = 4
) -> Figure:
    """One panel for each column of the log, one line style for each run; running means over five steps.

    A panel stays, and says so, where no run has logged its column.

    Args:
        runs: label → history.
        columns: names as TRL logs them.
        title: of the whole figure.
        per_row: panels side by side.
    """
    across = min(per_row, len(columns))
    down = -(-len(columns) // across)
    size = (2.8 * across, 2.0 * down + 0.6)
    fig, axes = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained", dpi=DPI)
    for ax in axes.flat[len(columns) :]:
        ax.set_visible(False)
    for ax, column in zip(axes.flat, columns, strict=False):
        for (label, history), (style, colour) in zip(runs.items(), LINES, strict=False):
            if column not in history or history[column].isna().all():
                continue
            values = smooth(history[column].replace([np.inf, -np.inf], np.nan))
            ax.plot(history["step"], values, color=colour, linestyle=style, linewidth=1.8, label=label)
        if not ax.lines:
            ax.text(0.5, 0.5, "not logged", ha="center", va="center", transform=ax.transAxes)
        name, unit = _signal(column)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("optimizer step")
        ax.set_ylabel(unit)
        ax.set_ylim((-0.03, 1.03) if unit == "share" else (min(0.0, ax.get_ylim()[0]), None))
        ax.grid(alpha=0.3)
    if len(runs) > 1:
        lines = {line.get_label(): line for ax in axes.flat for line in ax.lines}
        fig.legend(lines.values(), lines, loc="outside lower center", ncols=len(runs), fontsize=9, handlelength=3.5)
    fig.suptitle(title)
    return fig


def plot_reply_lengths(replies: Mapping[str, Sequence[str]], title: str = "How long the replies are") -> Figure:
    """Histograms of the lengths of two sets of replies, in characters: the first hatched, the second filled."""
    fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained", dpi=DPI)
    lengths = {label: [len(text) for text in texts] for label, texts in replies.items()}
    bins = np.linspace(0, max(map(max, lengths.values())) + 1, 31).tolist()
    looks = ({"color": "white", "edgecolor": GREY, "hatch": "////"}, {"color": BLUE, "alpha": 0.6})
    for (label, values), look in zip(lengths.items(), looks, strict=True):
        ax.hist(values, bins=bins, label=label, **look)
    ax.set_xlabel("length of a reply (characters)")
    ax.set_ylabel("replies")
    ax.set_title(title)
    ax.legend()
    return fig
