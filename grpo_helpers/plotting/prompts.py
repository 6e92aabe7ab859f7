"""Figures of prompts and questions: lengths, prompt variants, difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..statistics import wilson_interval
from ._style import BLUE, GREEN, GREY, ORANGE


def plot_lengths(lengths: Mapping[str, Sequence[int]], limits: Mapping[str, int]) -> Figure:
    """A histogram of token counts for each kind of text; the dashed line is its limit."""
    fig, axes = plt.subplots(
        1, len(lengths), figsize=(3.9 * len(lengths), 2.8), squeeze=False, sharey=False, layout="constrained"
    )
    for ax, (kind, tokens) in zip(axes.flat, lengths.items(), strict=True):
        width = max(1, max(max(tokens), limits[kind]) // 40)
        counts, _, _ = ax.hist(tokens, bins=range(0, max(tokens) + width + 1, width), color=GREY)
        ax.axvline(limits[kind], color=ORANGE, linestyle="--", label=f"limit, {limits[kind]} tokens")
        ax.set_title(kind, fontsize=10)
        ax.set_xlabel("length (tokens)")
        ax.set_ylabel("how many")
        ax.set_xlim(0, 1.08 * max(max(tokens), limits[kind]))
        ax.set_ylim(0, 1.3 * counts.max())  # room for the legend
        ax.legend(loc="upper left", fontsize=8)
    fig.suptitle("How long they are")
    return fig


def plot_variants(rates: pd.DataFrame, title: str = "Prompt variants") -> Figure:
    """Rates of each prompt variant with 95 % intervals, and what its prompt costs, from `probing.measure_prompts`."""
    fig, (left, right) = plt.subplots(
        1,
        2,
        figsize=(9.5, 0.5 * len(rates) + 1.6),
        width_ratios=(3, 1),
        sharey=True,
        layout="constrained",
    )
    marks = {
        "format": ("strict format", "D", GREY, -0.22),
        "strict": ("right, strict", "o", ORANGE, 0.0),
        "flexible": ("right, flexible", "s", BLUE, 0.22),
    }
    for column, (label, marker, colour, shift) in marks.items():
        x = 100 * rates[column]
        error = [
            (x - 100 * rates[f"{column}_low"]).clip(lower=0),
            (100 * rates[f"{column}_high"] - x).clip(lower=0),
        ]
        y = [i + shift for i in range(len(rates))]
        left.errorbar(x, y, xerr=error, fmt=marker, color=colour, markersize=5, capsize=2, label=label)
    left.set_yticks(range(len(rates)), rates.index)
    left.invert_yaxis()
    left.set_xlim(-2, 102)
    left.set_xlabel(f"per cent of {int(rates['n'].iloc[0])} replies, with 95 % Wilson interval")
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="best", fontsize=8)
    bars = right.barh(range(len(rates)), rates["prompt_tokens"], color=GREY, height=0.6)
    right.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    right.set_xlim(0, 1.25 * rates["prompt_tokens"].max())
    right.set_xlabel("mean prompt (tokens)")
    fig.suptitle(title)
    return fig


def plot_truncation(curve: pd.DataFrame, title: str = "The same completions, cut shorter") -> Figure:
    """The mean total reward and the share cut off against the limit, from `probing.truncation_curve`."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    left.plot(curve["limit"], curve["total"], color=BLUE, marker="o", markersize=4, label="all five")
    left.plot(curve["limit"], curve["correctness"], color=ORANGE, marker="s", markersize=4, label="correctness")
    left.set_ylabel("mean reward (points)")
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    right.plot(curve["limit"], 100 * curve["cut"], color=GREY, marker="D", markersize=4)
    right.set_ylabel("cut off (per cent)")
    right.set_ylim(-2, 102)
    for ax in (left, right):
        ax.set_xlabel("limit (tokens)")
        ax.grid(alpha=0.3)
    fig.suptitle(title)
    return fig


def plot_passes(passes: Sequence[int], k: int, title: str = "How hard the questions are") -> Figure:
    """How many questions were answered right in 0, 1 … k of k attempts; hatched: always or never."""
    counts = pd.Series(list(passes)).value_counts().reindex(range(k + 1), fill_value=0)
    fig, ax = plt.subplots(figsize=(7.5, 2.9), layout="constrained")
    mixed = counts.iloc[1:k]
    ax.bar(mixed.index, mixed, color=BLUE, label="sometimes")
    ax.bar([0, k], counts.iloc[[0, k]], color="white", edgecolor=GREY, hatch="///", label="never or always")
    ax.set_xticks(range(k + 1))
    ax.set_xlabel(f"right answers in {k} attempts")
    ax.set_ylabel("questions")
    ax.set_title(title)
    ax.legend(fontsize=8)
    return fig


def plot_silent(table: pd.DataFrame, title: str = "Groups without a signal: predicted and measured") -> Figure:
    """Predicted (line) and measured (mark, 95 % interval) share of tied groups against their size.

    Args:
        table: columns `rewards` (what is paid for), `group_size`, `predicted`
            (share), and `silent` of `groups` measured; NaN where nothing was.
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.1), layout="constrained")
    styles = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "D"))
    for (name, rows), (colour, line, marker) in zip(table.groupby("rewards", sort=False), styles, strict=False):
        ax.plot(rows["group_size"], 100 * rows["predicted"], color=colour, linestyle=line, label=f"{name}, predicted")
        seen = rows.dropna(subset=["silent"])
        share = seen["silent"] / seen["groups"]
        bounds = [wilson_interval(int(s), int(g)) for s, g in zip(seen["silent"], seen["groups"], strict=True)]
        error = [
            [100 * max(0.0, s - low) for s, (low, _) in zip(share, bounds, strict=True)],
            [100 * max(0.0, high - s) for s, (_, high) in zip(share, bounds, strict=True)],
        ]
        ax.errorbar(
            seen["group_size"], 100 * share, yerr=error, fmt=marker, color=colour, capsize=3, label=f"{name}, measured"
        )
    ax.set_ylim(-2, 102)
    ax.set_xscale("log", base=2)
    sizes = sorted(table["group_size"].unique())
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xlabel("completions in a group")
    ax.set_ylabel("groups without a signal (per cent)")
    ax.set_title(title)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return fig
