"""Figures of several processes: what each of them keeps, and what that weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ._style import BLUE, GREEN, GREY, ORANGE, PURPLE

KEPT = ("weights", "gradients", "optimizer", "activations", "completions")
LOOKS = ((GREY, ""), (ORANGE, "//"), (PURPLE, "xx"), (BLUE, ".."), (GREEN, "\\\\"))


def plot_where(
    sliced: Mapping[str, Sequence[str]],
    sent: Mapping[str, str],
    processes: int = 4,
    title: str = "What each process keeps, and what it sends",
) -> Figure:
    """A box for each process: full where it keeps the whole, a slice of it filled where it keeps one, dotted its own.

    Args:
        sliced: engine → what it keeps in slices, of KEPT.
        sent: engine → what its processes send each other, in words.
        processes: boxes drawn side by side.
    """
    fig, ax = plt.subplots(figsize=(1.7 * len(sliced) + 1.2, 3.9), layout="constrained")
    size = 0.8 / processes
    for column, (engine, names) in enumerate(sliced.items()):
        ax.text(column, len(KEPT), sent[engine], ha="center", va="center", fontsize=8)
        for row, name in enumerate(KEPT):
            for k in range(processes):
                x, y = column - 0.4 + k * size, row - 0.3
                if name in KEPT[3:]:
                    ax.add_patch(Rectangle((x, y), 0.85 * size, 0.6, facecolor="white", hatch="...", edgecolor=GREY))
                else:
                    start, part = (k / processes, 1 / processes) if name in names else (0, 1)
                    ax.add_patch(Rectangle((x, y + 0.6 * start), 0.85 * size, 0.6 * part, facecolor=BLUE))
                ax.add_patch(Rectangle((x, y), 0.85 * size, 0.6, fill=False, edgecolor="black", linewidth=0.8))
    ax.set_xticks(range(len(sliced)), list(sliced))
    ax.set_yticks(range(len(KEPT) + 1), [*KEPT, "(sent)"])
    ax.set(xlim=(-0.6, len(sliced) - 0.4), ylim=(len(KEPT) + 0.5, -0.5), ylabel="what is kept")
    ax.set_xlabel(f"engine; in each cell {processes} processes. Full: the whole. A slice: its share. Dotted: its own")
    ax.set_title(title)
    return fig


def plot_engines(tables: Mapping[str, pd.DataFrame], title: str = "Memory of each GPU") -> Figure:
    """Each engine's largest phase as a bar, in GB: weights, gradients, optimizer, and all the rest.

    Args:
        tables: engine → a table of `scaling.per_process`.
    """
    fig, ax = plt.subplots(figsize=(8, 0.5 * len(tables) + 1.7), layout="constrained")
    peaks = pd.DataFrame({name: table[table.sum().idxmax()] for name, table in tables.items()})
    rest = "activations, caches and the rest"
    peaks = peaks.groupby(lambda name: name if name in KEPT[:3] else rest).sum().loc[[*KEPT[:3], rest]]
    left = np.zeros(len(tables))
    for (part, values), (colour, hatch) in zip(peaks.iterrows(), LOOKS, strict=False):
        ax.barh(peaks.columns, values, left=left, color=colour, hatch=hatch, edgecolor="black", label=part)
        left += values.to_numpy()
    for y, table in enumerate(tables.values()):
        ax.text(left[y], y, f" {left[y]:.1f} ({table.sum().idxmax()})", va="center", fontsize=8)
    ax.set(xlim=(0, 1.3 * left.max()), ylabel="engine", title=title)
    ax.set_xlabel("memory of one GPU (GB), in the phase that needs most")
    ax.invert_yaxis()
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return fig
