"""Figures of grids: learning curves with the spread of their seeds, and every setting beside the usual one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ._style import BLUE, GREY
from .rewards import LINES

DPI = 80  # many figures in one notebook, which is to stay small
SIX = (*LINES, ((0, (1, 3)), "black"))
MARKERS = "os^DvPX*"
UNITS: Mapping[str, str] = {
    "completions": "completions sampled",
    "seconds": "processor time of training (s), evaluation not counted",
}


def plot_grid(curves: pd.DataFrame, title: str, x: str = "completions") -> Figure:
    """Held-out strict accuracy of each setting: the mean of its seeds as a line, from lowest to highest as a band.

    Args:
        curves: columns setting, seed, completions, seconds, strict (0 to 1); two points only are not joined.
        x: "completions" or "seconds"; seconds differ between seeds, so their mean is taken.
    """
    fig, ax = plt.subplots(figsize=(6.8, 3.4), layout="constrained", dpi=DPI)
    looks = zip(cycle(SIX), MARKERS, strict=False)
    for (label, own), ((style, colour), marker) in zip(curves.groupby("setting", sort=False), looks, strict=False):
        point = own.groupby("seed").cumcount()
        at = own.groupby(point)[x].mean()
        strict = 100 * own.groupby(point)["strict"].agg(["mean", "min", "max"])
        if whole := len(at) > 2:
            ax.fill_between(at, strict["min"], strict["max"], color=colour, alpha=0.13, linewidth=0)
        else:
            ax.vlines(at, strict["min"], strict["max"], color=colour)
        style = style if whole else "none"
        ax.plot(at, strict["mean"], linestyle=style, color=colour, marker=marker, markersize=5, label=label)
    ax.set_xlabel(UNITS[x])
    ax.set_ylabel("strict accuracy, held-out (%)")
    ax.set_ylim(-2, 102)
    ax.grid(alpha=0.3)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handlelength=3.5, frameon=False)
    ax.set_title(title)
    return fig


def plot_settings(values: pd.DataFrame, usual: pd.Series, title: str) -> Figure:
    """Every setting in a row of its own, a dot for each seed and a bar at their mean; behind them the usual range.

    Args:
        values: columns grid, setting, value (0 to 1), a row for each seed, in the order to be drawn.
        usual: values (0 to 1) of the usual setting, one for each of its seeds.
    """
    rows = values.groupby(["grid", "setting"], sort=False)["value"]
    fig, ax = plt.subplots(figsize=(7.5, 0.22 * len(rows) + 1), layout="constrained", dpi=DPI)
    ax.axvspan(100 * usual.min(), 100 * usual.max(), color=GREY, alpha=0.3, label="usual setting, all its seeds")
    for y, (_, own) in enumerate(rows):
        ax.plot(100 * own, [y] * len(own), "o", color=BLUE, markersize=4, label="one seed" if y == 0 else None)
        ax.plot(100 * own.mean(), y, "|", color="black", markersize=11, label="mean" if y == 0 else None)
    names = [setting if setting.startswith(grid) else f"{grid}: {setting}" for grid, setting in rows.groups]
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("strict accuracy, held-out, averaged over the run (%)")
    ax.set_ylabel("what is varied: setting")
    ax.grid(axis="x", alpha=0.3)
    fig.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    fig.suptitle(title)
    return fig
