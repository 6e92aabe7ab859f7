"""Figures of grids: learning curves with the spread of their seeds, and every setting beside the usual one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import BLUE, GREY
from .rewards import LINES

DPI = 80  # many figures in one notebook, which is to stay small
SIX = (*LINES, ((0, (1, 3)), "black"))
MARKERS = "os^DvPX*"
UNITS: Mapping[str, str] = {
    "completions": "completions sampled",
    "seconds": "processor time of training (s)",
}
# what is measured on held-out questions: column → title and unit of its panel
MEASURES: Mapping[str, tuple[str, str]] = {
    "flexible": ("right answers", "flexible accuracy (%)"),
    "strict": ("right, in the layout", "strict accuracy (%)"),
    "format": ("layout", "replies in the layout (%)"),
    "worked": ("working out", "replies with a calculation (%)"),
    "tokens": ("length", "tokens a reply, mean"),
}


def plot_grid(
    curves: pd.DataFrame, title: str, measures: Sequence[str] = ("flexible",), x: str = "completions"
) -> Figure:
    """What each setting reaches on held-out questions: its seeds' mean as a line, from lowest to highest as a band.

    Args:
        curves: columns setting, seed, completions, seconds and `measures`; two points only are not joined.
        measures: keys of MEASURES, a panel each, two in a row.
        x: "completions" or "seconds"; seconds differ between seeds, so their mean is taken.
    """
    rows, columns = -(-len(measures) // 2), min(2, len(measures))
    size = (6.8, 3.4) if columns == 1 else (7.6, 2.6 * rows + 0.9)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained", dpi=DPI)
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    for ax, measure in zip(axes.flat, measures, strict=False):
        _curves(ax, curves, measure, x)
        ax.set_xlabel(UNITS[x])
        ax.set_ylabel(MEASURES[measure][1])
        ax.grid(alpha=0.3)
        if measure == "tokens":
            ax.set_ylim(bottom=0)
        else:
            ax.set_ylim(-2, 102)
        if columns > 1:
            ax.set_title(MEASURES[measure][0], fontsize=10)
    lines, labels = axes.flat[0].get_legend_handles_labels()
    where, ncols = ("outside right center", 1) if columns == 1 else ("outside lower center", 4)
    fig.legend(lines, labels, loc=where, ncols=ncols, fontsize=8, handlelength=3.5, frameon=False)
    fig.suptitle(title)
    return fig


def _curves(ax: Axes, curves: pd.DataFrame, measure: str, x: str) -> None:
    """Line, markers and band of each setting; rates in per cent, tokens as they are."""
    looks = zip(cycle(SIX), MARKERS, strict=False)
    for (label, own), ((style, colour), marker) in zip(curves.groupby("setting", sort=False), looks, strict=False):
        point = own.groupby("seed").cumcount()
        at = own.groupby(point)[x].mean()
        values = own.groupby(point)[measure].agg(["mean", "min", "max"]) * (1 if measure == "tokens" else 100)
        if whole := len(at) > 2:
            ax.fill_between(at, values["min"], values["max"], color=colour, alpha=0.13, linewidth=0)
        else:
            ax.vlines(at, values["min"], values["max"], color=colour)
        style = style if whole else "none"
        ax.plot(at, values["mean"], linestyle=style, color=colour, marker=marker, markersize=5, label=label)


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
    ax.set_xlabel("flexible accuracy, held-out, averaged over the run (%)")
    ax.set_ylabel("what is varied: setting")
    ax.grid(axis="x", alpha=0.3)
    fig.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    fig.suptitle(title)
    return fig
