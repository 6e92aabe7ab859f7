"""Figures of notebook 01: advantages, the terms of the objective, a loop that reports while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import BLUE, GREEN, GREY, ORANGE, PURPLE

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
HATCHES = ("", "//", "..", "xx", "--")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")


def plot_lines(
    table: pd.DataFrame, ylabel: str, title: str, xlabel: str | None = None, markers: bool = False
) -> Figure:
    """Each column of `table` over its index; line styles, and markers if asked for, tell them apart."""
    fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
    for i, (name, values) in enumerate(table.items()):
        marker = MARKERS[i % len(MARKERS)] if markers else None
        ax.plot(table.index, values, LINES[i % len(LINES)], marker=marker, color=COLOURS[i % len(COLOURS)], label=name)
    ax.axhline(0, color="black", linewidth=0.8)
    if pd.api.types.is_integer_dtype(table.index):
        ax.set_xticks(table.index)
    ax.set_xlabel(xlabel or str(table.index.name))
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    ax.grid(alpha=0.3)
    ax.legend()
    return fig


def _grouped_bars(ax: Axes, table: pd.DataFrame) -> None:
    width = 0.8 / len(table.columns)
    for i, (name, values) in enumerate(table.items()):
        x = np.arange(len(table)) + (i - (len(table.columns) - 1) / 2) * width
        colour, hatch = COLOURS[i % len(COLOURS)], HATCHES[i % len(HATCHES)]
        ax.bar(x, values, width, color=colour, hatch=hatch, edgecolor="white", label=name)
    ax.set_xticks(range(len(table)), [str(label) for label in table.index])


def plot_bars(tables: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str, title: str) -> Figure:
    """A panel for each table, a group of bars for each of its rows, a bar for each column, told apart by hatching."""
    fig, axes = plt.subplots(1, len(tables), figsize=(max(6.5, 4.2 * len(tables)), 3), layout="constrained")
    for ax, (name, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        _grouped_bars(ax, table)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
    np.atleast_1d(axes)[0].legend(fontsize=8)
    fig.suptitle(title)
    return fig


def plot_networks(table: pd.DataFrame, limit: float, title: str) -> Figure:
    """Gigabytes, a stacked bar for each row, a piece for each column; the dashed line is the `limit` of a device."""
    fig, ax = plt.subplots(figsize=(7.5, 0.55 * len(table) + 1.6), layout="constrained")
    left = np.zeros(len(table))
    for i, (name, values) in enumerate(table.items()):
        hatch = HATCHES[i % len(HATCHES)]
        ax.barh(table.index, values, left=left, color=COLOURS[i], hatch=hatch, edgecolor="white", label=name)
        left += values.to_numpy()
    for y, total in enumerate(left):
        ax.text(total + 0.5, y, f"{total:.1f}", va="center")
    ax.axvline(limit, color="black", linestyle="--", linewidth=1, label=f"{limit:g} GB, a T4")
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1 * left.max())
    ax.set_xlabel("memory (GB), before any activation or KV cache")
    ax.set_title(title)
    ax.legend(fontsize=8, loc="lower right")
    return fig


def plot_tokens(tokens: Sequence[str], values: Sequence[float], ylabel: str, title: str) -> Figure:
    """One bar for each token of a completion, the token's text beneath it."""
    fig, ax = plt.subplots(figsize=(max(6.5, 0.3 * len(tokens)), 3.2), layout="constrained")
    ax.bar(range(len(tokens)), values, color=BLUE)
    ax.set_xticks(range(len(tokens)), [t.replace("\n", "\\n") for t in tokens], rotation=90, fontsize=8)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel("token of the completion")
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    return fig


def plot_clip(ratio: Sequence[float], objectives: Mapping[float, Sequence[float]], low: float, high: float) -> Figure:
    """The clipped objective over the ratio, a panel for each advantage; flat means that nothing is learned."""
    fig, axes = plt.subplots(1, len(objectives), figsize=(7.5, 3), layout="constrained")
    for ax, (advantage, values) in zip(axes, objectives.items(), strict=True):
        ax.plot(ratio, [advantage * r for r in ratio], ":", color=GREY, label="not clipped")
        ax.plot(ratio, values, color=BLUE, linewidth=2, label="clipped")
        ax.axvspan(low, high, color=GREY, alpha=0.15)
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_title(f"advantage {advantage:+g}", fontsize=10)
        ax.set_xlabel("ratio now / when sampled (no unit)")
        ax.set_ylabel("objective (advantage units)")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    fig.suptitle(f"The clip at {low:g} and {high:g} (grey: inside)")
    return fig


def plot_ratios(token_ratios: Sequence[Sequence[float]], sequence_ratios: Sequence[float], title: str) -> Figure:
    """The ratio of each token (dots) and of each completion as a whole (bars), on a log scale."""
    fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
    for i, (ratios, whole) in enumerate(zip(token_ratios, sequence_ratios, strict=True), start=1):
        x = i + np.linspace(-0.3, 0.3, len(ratios))
        ax.plot(x, ratios, "o", color=GREY, markersize=5, label="a token" if i == 1 else None)
        ax.plot(
            [i - 0.38, i + 0.38], [whole] * 2, color=ORANGE, linewidth=3, label="the completion" if i == 1 else None
        )
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_yticks([0.5, 0.7, 1, 1.4, 2, 3], ["0.5", "0.7", "1", "1.4", "2", "3"])
    ax.minorticks_off()
    ax.set_xticks(range(1, len(token_ratios) + 1))
    ax.set_xlabel("completion (number in the group)")
    ax.set_ylabel("ratio (log scale, no unit)")
    ax.set_title(title)
    ax.legend(fontsize=8)
    return fig


def _signed_bars(ax: Axes, values: Sequence[float], title: str, ylabel: str) -> None:
    numbers = range(1, len(values) + 1)
    ax.bar(numbers, values, color=[BLUE if v >= 0 else ORANGE for v in values])
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(numbers)
    ax.set_title(title, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=8)


def plot_push(groups: pd.DataFrame, title: str = "From rewards to a push") -> Figure:
    """A row of panels for each group: rewards, advantages, probabilities before and after one step.

    Args:
        groups: index (group, completion); columns reward, advantage, before, after.
    """
    names = list(dict.fromkeys(groups.index.get_level_values(0)))
    fig, axes = plt.subplots(len(names), 3, figsize=(8, 1.5 * len(names) + 1), squeeze=False, layout="constrained")
    for row, name in zip(axes, names, strict=True):
        group = groups.loc[name]
        _signed_bars(row[0], group["reward"], str(name), "reward (points)")
        row[0].set_ylim(min(0, group["reward"].min()), 4.2)
        _signed_bars(row[1], group["advantage"], "advantage", "advantage (std)")
        row[1].set_ylim(-1.8, 1.8)
        _grouped_bars(row[2], group[["before", "after"]])
        row[2].set_xticks(range(len(group)), range(1, len(group) + 1))
        row[2].set_ylim(0, 0.8)
        row[2].set_title("probability before, after", fontsize=9)
        row[2].set_ylabel("probability", fontsize=8)
    axes[0][2].legend(fontsize=7, loc="upper right")
    for ax in axes[-1]:
        ax.set_xlabel("completion (number in the group)", fontsize=8)
    fig.suptitle(title)
    return fig
