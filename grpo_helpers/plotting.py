"""Every figure the notebooks draw: readable without colour, and each returns its Figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .evaluation import wilson_interval

# Okabe and Ito's palette, made for colour-blind readers.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def reward_columns(history: pd.DataFrame) -> dict[str, str]:
    """The mean of each reward function in a history: short name → column."""
    columns = [c for c in history.columns if c.startswith("rewards/") and c.endswith("/mean")]
    return {c.split("/")[1].removesuffix("_reward_func").replace("_", " "): c for c in columns}


def smooth(values: pd.Series, window: int = 5) -> pd.Series:
    """A centred running mean; shorter at both ends, so that no step is lost."""
    return values.rolling(window, center=True, min_periods=1).mean()


def _trace(ax: Axes, history: pd.DataFrame, column: str, title: str) -> None:
    ax.plot(history["step"], history[column], color=GREY, linewidth=0.8, alpha=0.8)
    ax.plot(history["step"], smooth(history[column]), color=BLUE, linewidth=2)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("mean reward (points)")
    ax.grid(alpha=0.3)


def plot_rewards(history: pd.DataFrame, title: str = "Reward history") -> Figure:
    """The total reward and each component over training: every step thin, its running mean bold."""
    panels = {"total": "reward"} | reward_columns(history)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (name, column) in zip(axes.flat, panels.items(), strict=False):
        _trace(ax, history, column, name)
        ax.set_ylim(bottom=min(0.0, float(history[column].min())))
    fig.suptitle(title)
    return fig


def plot_diagnostics(history: pd.DataFrame, title: str = "What else to watch") -> Figure:
    """Completion length, truncation, tied groups and entropy: what explains a reward that does not rise."""
    wanted: Mapping[str, tuple[str, str]] = {
        "completions/mean_length": ("mean completion length", "tokens"),
        "completions/clipped_ratio": ("completions cut off", "share"),
        "frac_reward_zero_std": ("groups without a signal", "share"),
        "entropy": ("entropy of the policy", "nats per token"),
    }
    present = {c: v for c, v in wanted.items() if c in history}
    fig, axes = plt.subplots(1, len(present), figsize=(3.2 * len(present), 2.7), squeeze=False, layout="constrained")
    for ax, (column, (name, unit)) in zip(axes.flat, present.items(), strict=True):
        _trace(ax, history, column, name)
        ax.set_ylabel(unit)
        ax.set_ylim(bottom=0)
        if unit == "share":
            ax.set_ylim(-0.02, 1.02)
    fig.suptitle(title)
    return fig


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


def plot_group(rewards: pd.Series, advantages: pd.Series, title: str = "One group, scored") -> Figure:
    """The reward of each completion of a group beside its advantage; the dashed line is the group's mean."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7), layout="constrained")
    numbers = range(1, len(rewards) + 1)
    left.bar(numbers, rewards, color=GREY)
    left.axhline(rewards.mean(), color="black", linestyle="--", linewidth=1, label="group mean")
    left.set_ylim(0, max(1.0, 1.3 * rewards.max()))
    left.legend(loc="upper right", fontsize=8)
    right.bar(numbers, advantages, color=[BLUE if a >= 0 else ORANGE for a in advantages])
    right.axhline(0, color="black", linewidth=1)
    labels = (("reward", "total reward (points)"), ("advantage", "advantage (group std)"))
    for ax, (name, unit) in zip((left, right), labels, strict=True):
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("completion (number in the group)")
        ax.set_ylabel(unit)
        ax.set_xticks(numbers)
    fig.suptitle(title)
    return fig


def plot_loss_and_reward(history: pd.DataFrame, title: str = "The same run, two curves") -> Figure:
    """The logged loss beside the reward: the first says little, the second is what training is for."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7), layout="constrained")
    _trace(left, history, "loss", "loss")
    left.axhline(0, color="black", linewidth=0.8)
    left.set_ylabel("loss (no unit)")
    _trace(right, history, "reward", "reward")
    right.set_ylim(bottom=min(0.0, float(history["reward"].min())))
    fig.suptitle(title)
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
