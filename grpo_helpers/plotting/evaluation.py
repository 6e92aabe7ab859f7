"""Figures of an evaluation: rates and their intervals, kinds of mistakes, pass@k."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import wilson_interval
from ._style import BLUE, GREY, ORANGE

# marker, face, colour, shift
MARKS = {"before": ("o", "white", GREY, -0.15), "after": ("s", ORANGE, ORANGE, 0.15)}

# what at least one of k replies has to be: titles of the panels
PASSED = {
    "strict": "one is right, in the layout",
    "flexible": "one is right, anywhere",
    "worked": "one works it out",
}


def _per_cent(ax: Axes, title: str, of: str = "per cent") -> None:
    ax.set(xlim=(-2, 102), xlabel=f"{of}, with 95 % Wilson interval", title=title)
    ax.grid(axis="x", alpha=0.3)


def plot_before_after(comparison: pd.DataFrame, title: str = "Before and after on held-out questions") -> Figure:
    """Each rate before (hollow) and after (filled) with its 95 % interval, from `evaluation.compare`."""
    fig, ax = plt.subplots(figsize=(7.5, 0.6 * len(comparison) + 1.3), layout="constrained")
    for when, (marker, face, colour, shift) in MARKS.items():
        y = [i + shift for i in range(len(comparison))]
        x = 100 * comparison[when]
        error = [x - 100 * comparison[f"{when}_low"], 100 * comparison[f"{when}_high"] - x]
        ax.errorbar(x, y, xerr=error, fmt=marker, color=colour, markerfacecolor=face, capsize=3, label=when)
    ax.set_yticks(range(len(comparison)), comparison.index)
    ax.invert_yaxis()
    _per_cent(ax, title, f"per cent of {int(comparison['n'].iloc[0])} questions")
    ax.legend(loc="best")
    return fig


def plot_intervals(results: Mapping[str, tuple[int, int]], title: str = "How far a rate can be trusted") -> Figure:
    """Rates with their 95 % Wilson intervals: label → (right answers, questions)."""
    fig, ax = plt.subplots(figsize=(7.5, 0.5 * len(results) + 1.3), layout="constrained")
    for y, (k, n) in enumerate(results.values()):
        low, high = wilson_interval(k, n)
        error = [[100 * (k / n - low)], [100 * (high - k / n)]]
        ax.errorbar(100 * k / n, y, xerr=error, fmt="o", color=BLUE, capsize=4)
    ax.set_yticks(range(len(results)), [f"{label}\n{k} of {n}" for label, (k, n) in results.items()])
    ax.set_ylim(len(results) - 0.5, -0.5)
    _per_cent(ax, title, "per cent right")
    return fig


def plot_kinds(counts: pd.DataFrame, title: str = "What became of the replies") -> Figure:
    """How many replies of each kind before (hollow) and after (filled), from `mistakes.count_kinds`."""
    fig, ax = plt.subplots(figsize=(7.5, 0.55 * len(counts) + 1.2), layout="constrained")
    for when, (_, face, colour, shift) in MARKS.items():
        y = [i + 1.3 * shift for i in range(len(counts))]
        bars = ax.barh(y, counts[when], height=0.36, color=face, edgecolor=colour, label=when)
        ax.bar_label(bars, padding=2, fontsize=8)
    ax.set_yticks(range(len(counts)), counts.index)
    ax.invert_yaxis()
    total, most = int(counts["before"].sum()), counts.to_numpy().max()
    ax.set(xlim=(0, 1.1 * most), xlabel=f"replies, of {total}", title=title)
    ax.legend(loc="best")
    return fig


def plot_pass_at_k(curves: Mapping[str, Mapping[str, pd.DataFrame]], title: str = "pass@k") -> Figure:
    """pass@k before (hollow) and after (filled) with 95 % bootstrap intervals, a panel for each reading.

    Dotted: one try afterwards, to be compared with many before.

    Args:
        curves: reading → "before" and "after" → index k, columns rate, low, high, from `evaluation.average`.
    """
    size = (4 * len(curves), 3.2)
    fig, axes = plt.subplots(1, len(curves), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, (reading, pair) in zip(axes.flat, curves.items(), strict=True):
        for when, curve in pair.items():
            _, face, colour, _ = MARKS[when]
            ax.plot(100 * curve["rate"], "--o" if when == "before" else "-s", mfc=face, color=colour, label=when)
            ax.fill_between(curve.index, 100 * curve["low"], 100 * curve["high"], color=colour, alpha=0.2)
        one_try = 100 * pair["after"]["rate"].iloc[0]
        ax.axhline(one_try, color=ORANGE, linestyle=":", linewidth=1.5, label="after, one try")
        ax.set_xscale("log", base=2)
        ax.set_xticks(curve.index, [str(k) for k in curve.index])
        ax.set(xlabel="k, replies to each question", title=PASSED.get(reading, reading))
        ax.grid(alpha=0.3)
    axes[0, 0].set(ylim=(-2, 102), ylabel="questions (per cent)")
    axes[0, 0].legend(loc="best")
    fig.suptitle(title)
    return fig
