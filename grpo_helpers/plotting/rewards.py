"""Figures of rewards: who pays what, advantages compared, runs side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ._style import BLUE, GREEN, GREY, ORANGE, PURPLE
from .training import smooth

LINES = (("-", BLUE), ("--", ORANGE), (":", GREEN), ("-.", PURPLE), ((0, (6, 1, 1, 1, 1, 1)), GREY))
DPI = 80  # many figures in one notebook, which is to stay small
OUTCOMES = {"strict": "strict accuracy", "flexible": "flexible accuracy", "format": "strict format"}


def plot_reward_matrix(table: pd.DataFrame, title: str = "Who pays what") -> Figure:
    """Completions (rows) × reward functions (columns): the points are written into the cells."""
    fig, ax = plt.subplots(
        figsize=(1.25 * table.shape[1] + 2.2, 0.36 * len(table) + 1.2), layout="constrained", dpi=DPI
    )
    most = max(1e-9, float(table.to_numpy().max()))
    ax.imshow(table.to_numpy(), cmap="Blues", vmin=0, vmax=1.6 * most, aspect="auto")
    for i, row in enumerate(table.to_numpy()):
        for j, value in enumerate(row):
            weight = "bold" if value > 0 else "normal"
            ax.text(j, i, f"{value:g}", ha="center", va="center", fontsize=9, fontweight=weight)
    ax.set_xticks(range(table.shape[1]), [str(c).replace(" ", "\n") for c in table.columns], fontsize=9)
    ax.set_yticks(range(len(table)), table.index, fontsize=9)
    ax.set_xticks([j + 0.5 for j in range(table.shape[1] - 1)], minor=True)
    ax.set_yticks([i + 0.5 for i in range(len(table) - 1)], minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.set_xlabel("reward function (points)")
    ax.set_ylabel("completion")
    ax.set_title(title)
    return fig


def plot_advantages(advantages: pd.DataFrame, title: str = "The same group, judged twice") -> Figure:
    """Advantages of one group under different rewards: a row for each completion, a column for each way to judge."""
    fig, ax = plt.subplots(
        figsize=(7.5, 0.34 * len(advantages) * len(advantages.columns) + 1.5), layout="constrained", dpi=DPI
    )
    height = 0.8 / len(advantages.columns)
    styles = ((BLUE, ""), ("white", "///"), (ORANGE, "..."))
    for k, (name, (colour, hatch)) in enumerate(zip(advantages.columns, styles, strict=False)):
        y = [i + (k - (len(advantages.columns) - 1) / 2) * height for i in range(len(advantages))]
        ax.barh(y, advantages[name], height=height, color=colour, hatch=hatch, edgecolor="black", label=name)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(advantages)), advantages.index)
    ax.invert_yaxis()
    ax.set_xlabel("advantage (standard deviations)")
    ax.set_ylabel("completion")
    ax.set_title(title)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="best", fontsize=8)
    return fig


def plot_runs(
    runs: Mapping[str, pd.DataFrame],
    series: Mapping[str, Mapping[str, str]] | Mapping[str, str],
    title: str = "Two runs, the same policy and seed",
) -> Figure:
    """Histories side by side, one panel each: running means, a line style for each series.

    Args:
        runs: panel title → history.
        series: label → column for all runs, or such a mapping for each run by its title.
    """
    size = (max(5.5, 4.2 * len(runs)), 3.6)
    each = isinstance(next(iter(series.values())), Mapping)
    fig, axes = plt.subplots(1, len(runs), figsize=size, sharey=True, squeeze=False, layout="constrained", dpi=DPI)
    for ax, (name, history) in zip(axes.flat, runs.items(), strict=True):
        own = series[name] if each else series
        for (label, column), (style, colour) in zip(own.items(), LINES, strict=False):
            ax.plot(history["step"], smooth(history[column]), linestyle=style, color=colour, linewidth=2, label=label)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("optimizer step")
        ax.grid(alpha=0.3)
        if each:
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=8, ncols=2, frameon=False, handlelength=3.5)
    if not each:
        lines, labels = axes.flat[0].get_legend_handles_labels()
        fig.legend(lines, labels, loc="outside lower center", fontsize=8, ncols=3, frameon=False, handlelength=3.5)
    axes.flat[0].set_ylim(bottom=min(-0.05, axes.flat[0].get_ylim()[0]))
    axes.flat[0].set_ylabel("mean reward (points)\nrunning mean over 5 steps")
    fig.suptitle(title)
    return fig


def plot_outcomes(rates: pd.DataFrame, title: str = "Held-out questions") -> Figure:
    """Rates of several policies with 95 % Wilson intervals, one panel for each outcome (`reward_experiments.rates`)."""
    policies = list(dict.fromkeys(rates["policy"]))
    size = (3.0 * len(OUTCOMES), 0.45 * len(policies) + 1.5)
    fig, axes = plt.subplots(1, len(OUTCOMES), figsize=size, sharey=True, layout="constrained", dpi=DPI)
    for ax, (outcome, label) in zip(axes, OUTCOMES.items(), strict=True):
        table = rates[rates["outcome"] == outcome].set_index("policy").loc[policies]
        for y, (row, marker) in enumerate(zip(table.itertuples(), "os^Dv", strict=False)):
            error = [[100 * (row.rate - row.low)], [100 * (row.high - row.rate)]]
            ax.errorbar(100 * row.rate, y, xerr=error, fmt=marker, color=BLUE, capsize=3)
        ax.set_yticks(range(len(policies)), policies)
        ax.set_xlim(-2, 102)
        ax.set_ylim(len(policies) - 0.5, -0.5)
        ax.set_title(label, fontsize=10)
        ax.set_xlabel(f"per cent of {int(table['n'].iloc[0])}")
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_ylabel("policy")
    fig.suptitle(f"{title}, with 95 % intervals")
    return fig
