"""Figures of memory and precision: a plan, its remedies, plans beside measurements, gradients in float16."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ._style import BLUE, GREEN, GREY, ORANGE, PURPLE

# Small parts that only full fine-tuning makes large are drawn as one.
TRAINED = {name: "adapters, gradients, optimizer" for name in ("adapters", "gradients", "optimizer")}
LOOKS = {
    "weights": (GREY, ""),
    "adapters, gradients, optimizer": (PURPLE, "xx"),
    "activations": (ORANGE, "//"),
    "KV cache": (BLUE, "\\\\"),
    "logits": (GREEN, ".."),
    "overhead": ("white", ""),
}


def plot_budget(table: pd.DataFrame, budget_gb: float, title: str = "Memory by phase") -> Figure:
    """Each phase of a plan as a bar of its components, in GB; the dashed line is the budget."""
    parts = table.groupby(lambda name: TRAINED.get(name, name), sort=False).sum()
    fig, ax = plt.subplots(figsize=(8, 0.55 * table.shape[1] + 1.7), layout="constrained")
    left = np.zeros(parts.shape[1])
    for name, (colour, hatch) in LOOKS.items():
        width = parts.loc[name].to_numpy()
        ax.barh(
            parts.columns, width, left=left, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6, label=name
        )
        left += width
    for y, total in enumerate(left):
        ax.text(total, y, f" {total:.1f}", va="center")
    ax.axvline(budget_gb, color="black", linestyle="--", linewidth=1.2)
    ax.text(budget_gb, -0.62, f"{budget_gb:g} GB ", ha="right", va="center", fontsize=9)
    ax.set_ylim(len(left) - 0.4, -0.9)
    ax.set_xlim(0, 1.08 * max(budget_gb, left.max()))
    ax.set_xlabel("memory (GB)")
    ax.set_ylabel("phase")
    ax.set_title(title)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return fig


def plot_peaks(
    before: Mapping[str, float], after: Mapping[str, float], budget_gb: float, title: str = "Before and after"
) -> Figure:
    """Peaks in GB of configurations as they are (hollow) and with the right knobs turned (filled)."""
    fig, ax = plt.subplots(figsize=(8, 0.5 * len(before) + 1.5), layout="constrained")
    for y, name in enumerate(before):
        ax.annotate("", (after[name], y), (before[name], y), arrowprops={"arrowstyle": "->", "color": GREY})
    rows = range(len(before))
    ax.plot(list(before.values()), rows, "o", color=ORANGE, markerfacecolor="white", markersize=8, label="as it is")
    ax.plot([after[n] for n in before], rows, "s", color=BLUE, markersize=8, label="knobs turned")
    ax.axvline(budget_gb, color="black", linestyle="--", linewidth=1.2, label=f"budget, {budget_gb:g} GB")
    ax.set_yticks(rows, list(before))
    ax.set_ylim(len(before) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("peak memory (GB)")
    ax.set_ylabel("configuration")
    ax.set_title(title)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="best", fontsize=8)
    return fig


def plot_planned_measured(table: pd.DataFrame, title: str = "The planner beside measurements") -> Figure:
    """Planned over measured memory of each configuration; the grey band is plus or minus 20 per cent.

    `table` has the columns configuration, measured_gb, ratio and fitted, as tests/tools/bench_memory.py records them.
    """
    fig, ax = plt.subplots(figsize=(8, 0.4 * len(table) + 1.5), layout="constrained")
    ax.axvspan(0.8, 1.2, color=GREY, alpha=0.25, label="within 20 %")
    ax.axvline(1.0, color="black", linewidth=0.8)
    for fitted, marker, face, label in ((True, "o", "white", "used for fitting"), (False, "s", BLUE, "not used")):
        rows = table.index[table["fitted"] == fitted]
        ax.plot(table.loc[rows, "ratio"], rows, marker, color=BLUE, markerfacecolor=face, label=label)
    labels = [f"{row.configuration}, {row.measured_gb:.1f} GB" for row in table.itertuples()]
    ax.set_yticks(table.index, labels)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(min(0.7, table["ratio"].min() - 0.05), max(1.3, table["ratio"].max() + 0.05))
    ax.set_xlabel("planned memory / measured memory (ratio)")
    ax.set_ylabel("configuration, measured peak")
    ax.set_title(title)
    ax.legend(loc="best", fontsize=8)
    return fig


def plot_gradient_range(
    gradients: np.ndarray, scale: float, title: str = "Gradients and what float16 can hold"
) -> Figure:
    """Sizes of gradients as they are and multiplied by `scale`, beside the limits of float16."""
    sizes = np.log2(np.abs(gradients[gradients != 0]).astype(np.float64))
    limits = {"smallest": -24, "smallest with\nall digits": -14, "largest": 16}
    sizes = sizes.clip(min=-36)  # a few are far smaller still
    low, high = min(sizes.min(), -26), max(sizes.max() + np.log2(scale), 17)
    bins = np.arange(np.floor(low), np.ceil(high) + 1)
    fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    share = np.full(len(sizes), 100 / len(sizes))
    ax.hist(sizes, bins, weights=share, color=GREY, edgecolor="black", hatch="//", label="as they are")
    ax.hist(
        sizes + np.log2(scale),
        bins,
        weights=share,
        histtype="step",
        color=BLUE,
        linewidth=2,
        label=f"loss multiplied by {scale:g}",
    )
    top = ax.get_ylim()[1]
    for name, limit in limits.items():
        ax.axvline(limit, color="black", linestyle="--", linewidth=1)
        ax.annotate(name, (limit, 1.16 * top), (4, 0), textcoords="offset points", fontsize=8, va="center")
    ax.set_ylim(0, 1.3 * top)
    ax.set_xlabel("size of a gradient (power of two)")
    ax.set_ylabel("per cent of gradients")
    ax.set_title(title)
    ax.set_xlim(right=high + 4)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return fig
