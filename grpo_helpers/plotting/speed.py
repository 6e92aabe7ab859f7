"""A figure of time: where a step's seconds go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ._style import BLUE


def plot_step_time(bench: Mapping[str, Any], title: str = "Where the time of a step goes") -> Figure:
    """A recorded `make bench`: left, seconds of whole steps; right, those of each phase beside its floor.

    Args:
        bench: has seconds_per_step (way → seconds) and phases (phase → {seconds, floor}).
    """
    whole = bench["seconds_per_step"] | {"floor of this machine": sum(p["floor"] for p in bench["phases"].values())}
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1, 1.4), layout="constrained")
    bars = left.barh(list(whole), list(whole.values()), color=BLUE, edgecolor="black")
    left.bar_label(bars, fmt="%.1f", padding=2)
    left.set_title("a whole step", fontsize=10)
    left.set_xlim(0, 1.25 * max(whole.values()))
    phases = pd.DataFrame(bench["phases"]).T
    places = range(len(phases))
    right.barh([y - 0.2 for y in places], phases["seconds"], 0.4, color=BLUE, edgecolor="black", label="measured")
    right.barh(
        [y + 0.2 for y in places], phases["floor"], 0.4, color="white", edgecolor="black", hatch="//", label="floor"
    )
    right.set_yticks(list(places), phases.index)
    right.set_title("its phases, this package", fontsize=10)
    right.legend(loc="lower right", fontsize=8)
    for ax in (left, right):
        ax.invert_yaxis()
        ax.set_xlabel("seconds")
    left.set_ylabel("way to train")
    right.set_ylabel("phase")
    fig.suptitle(title)
    return fig
