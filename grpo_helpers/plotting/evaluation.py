"""Figures of an evaluation: rates and their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import wilson_interval
from ._style import BLUE, GREY, ORANGE


def plot_before_after(comparison: pd.DataFrame, title: str = "Before and after on held-out questions") -> Figure:
    """Each rate before (hollow) and after (filled) with its 95 % interval, from `evaluation.compare`."""
    fig, ax = plt.subplots(figsize=(7.5, 0.6 * len(comparison) + 1.3), layout="constrained")
    marks = {"before": ("o", "white", GREY, -0.15), "after": ("s", ORANGE, ORANGE, 0.15)}
    for when, (marker, face, colour, shift) in marks.items():
        y = [i + shift for i in range(len(comparison))]
        x = 100 * comparison[when]
        error = [x - 100 * comparison[f"{when}_low"], 100 * comparison[f"{when}_high"] - x]
        ax.errorbar(x, y, xerr=error, fmt=marker, color=colour, markerfacecolor=face, capsize=3, label=when)
    ax.set_yticks(range(len(comparison)), comparison.index)
    ax.invert_yaxis()
    ax.set_xlim(-2, 102)
    ax.set_xlabel(f"per cent of {int(comparison['n'].iloc[0])} questions, with 95 % Wilson interval")
    ax.set_title(title)
    ax.grid(axis="x", alpha=0.3)
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
    ax.set_xlim(-2, 102)
    ax.set_xlabel("per cent right, with 95 % Wilson interval")
    ax.set_title(title)
    ax.grid(axis="x", alpha=0.3)
    return fig
