"""Figures of an evaluation: rates with their intervals, counts before and after, who pays what."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import wilson_interval
from ._style import BLUE, GREEN, ORANGE

MARKS = (("o", BLUE, "white"), ("s", ORANGE, ORANGE), ("D", GREEN, GREEN))  # marker, colour, face: the first is hollow


def plot_rates(
    rates: pd.DataFrame, columns: Mapping[str, str], title: str = "", of: str = "rate (%)", ax: Axes | None = None
) -> Figure:
    """Rates with their 95 % Wilson intervals, a row of marks for each row of `rates`.

    For each column shown, "x", the columns x, x_low and x_high, 0 to 1. `columns` are column → what the legend calls
    it, `of` what they are, `ax` is where to draw; None makes a figure.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, (0.3 + 0.15 * len(columns)) * len(rates) + 1.3))
    for i, ((column, label), (marker, colour, face)) in enumerate(zip(columns.items(), cycle(MARKS), strict=False)):
        x, low, high = (100 * rates[c].astype(float) for c in (column, f"{column}_low", f"{column}_high"))
        y = [row + 0.25 * (i - (len(columns) - 1) / 2) for row in range(len(rates))]
        name = label if len(columns) > 1 else None
        error = [(x - low).clip(lower=0), (high - x).clip(lower=0)]  # -1e-17 would be refused
        ax.errorbar(x, y, xerr=error, fmt=marker, color=colour, markerfacecolor=face, capsize=3, label=name)
    ax.set_yticks(range(len(rates)), rates.index)
    ax.set(xlim=(-2, 102), ylim=(len(rates) - 0.5, -0.5), xlabel=f"{of}, with 95 % Wilson interval", title=title)
    if len(columns) > 1:
        ax.legend()
    return ax.figure


def plot_intervals(results: Mapping[str, tuple[int, int]], title: str) -> Figure:
    """Rates with their 95 % Wilson intervals: label → (right answers, questions)."""
    rows = {f"{label}\n{k} of {n}": (k / n, *wilson_interval(k, n)) for label, (k, n) in results.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["right", "right_low", "right_high"])
    return plot_rates(table, {"right": "right"}, title, "right (%)")


def plot_before_after(comparison: pd.DataFrame) -> Figure:
    """Each rate before (hollow) and after (filled) with its 95 % interval, from `evaluation.compare`."""
    first = comparison.iloc[0]
    title = f"Right, in the layout: {100 * first['before']:.1f} % before, {100 * first['after']:.1f} % after"
    of = f"% of {int(first['n'])} questions"
    return plot_rates(comparison, {"before": "before", "after": "after"}, title, of)


def plot_kinds(counts: pd.DataFrame, title: str) -> Figure:
    """How many replies of each kind before (hollow) and after (filled): columns before and after."""
    ax = counts.plot.barh(color=["white", ORANGE], edgecolor=BLUE, width=0.75, figsize=(7.5, 0.55 * len(counts) + 1.2))
    for bars in ax.containers:
        ax.bar_label(bars, padding=2, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel=f"replies, of {counts['before'].sum()}", ylabel="", title=title)
    ax.margins(x=0.1)
    return ax.figure


def plot_reward_matrix(table: pd.DataFrame, title: str) -> Figure:
    """Completions (rows) × reward functions (columns): the points are written into the cells."""
    figure, ax = plt.subplots(figsize=(1.1 * table.shape[1] + 2.2, 0.36 * len(table) + 1.2))
    most = max(1e-9, float(table.to_numpy().max()))
    ax.pcolormesh(table.to_numpy(), cmap="Blues", vmin=0, vmax=1.6 * most, edgecolor="white", linewidth=1.5)
    for i, row in enumerate(table.to_numpy()):
        for j, value in enumerate(row):
            weight = "bold" if value > 0 else "normal"
            ax.text(j + 0.5, i + 0.5, f"{value:g}", ha="center", va="center", fontsize=9, fontweight=weight)
    ax.set_xticks([j + 0.5 for j in range(table.shape[1])], [str(c).replace(" ", "\n") for c in table], fontsize=9)
    ax.set_yticks([i + 0.5 for i in range(len(table))], table.index, fontsize=9)
    ax.set(xlabel="reward function (points)", ylabel="completion", title=title)
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.tick_params(length=0)
    return figure
