"""Figures of a training run: rewards, diagnostics, one group."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import BLUE, GREY, ORANGE


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
