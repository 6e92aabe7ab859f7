"""Figures of a training run: rewards, diagnostics, one group."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..rewards import MAX_REWARD, MOST, short_name
from ._style import BLUE, GREY, ORANGE


def reward_columns(history: pd.DataFrame) -> dict[str, str]:
    """The mean of each reward function in a history: short name → column."""
    columns = [c for c in history.columns if c.startswith("rewards/") and c.endswith("/mean")]
    return {short_name(c.split("/")[1]): c for c in columns}


def smooth(values: pd.Series, window: int = 5) -> pd.Series:
    """A centred running mean; shorter at both ends, so that no step is lost."""
    return values.rolling(window, center=True, min_periods=1).mean()


POINTS = "mean reward (points)"
# what TRL logs: column → title and unit of its panel
SIGNALS: Mapping[str, tuple[str, str]] = {
    "reward": ("total reward", POINTS),
    "rewards/correctness_reward_func/mean": ("correctness", POINTS),
    "completions/mean_length": ("mean completion length", "tokens"),
    "completions/worked": ("completions with a calculation", "share"),
    "completions/clipped_ratio": ("completions cut off", "share"),
    "frac_reward_zero_std": ("tied groups", "share"),
    "entropy": ("entropy of the policy", "nats a token"),
    "kl": ("KL to the reference", "nats a token"),
    "grad_norm": ("gradient norm", "no unit"),
}
WATCHED = {column: SIGNALS[column] for column in ("completions/clipped_ratio", "frac_reward_zero_std", "entropy", "kl")}
# what was learned: the first panels of a history
LEARNED = {
    column: SIGNALS[column]
    for column in ("rewards/correctness_reward_func/mean", "completions/mean_length", "completions/worked")
}


def _most(history: pd.DataFrame, column: str) -> float | None:
    """The most that a reward can be, if its functions are the series' own."""
    if column == "reward":
        paid = set(reward_columns(history).values())
        return MAX_REWARD if paid == {f"rewards/{name}/mean" for name in MOST} else None
    return MOST.get(column.removeprefix("rewards/").removesuffix("/mean"))


def _trace(ax: Axes, history: pd.DataFrame, column: str, title: str, unit: str = POINTS) -> None:
    """Every step thin, the running mean bold; dashed, the most that can be earned."""
    if (most := _most(history, column)) is not None:
        ax.axhline(most, color="black", linestyle="--", linewidth=1)
    ax.plot(history["step"], history[column], color=GREY, linewidth=0.8, alpha=0.8)
    ax.plot(history["step"], smooth(history[column]), color=BLUE, linewidth=2)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(unit)
    ax.grid(alpha=0.3)
    if unit == "share":
        ax.set_ylim(-0.02, 1.02)
    elif not unit.startswith("loss"):
        ax.set_ylim(bottom=min(0.0, float(history[column].min())))


def _panels(history: pd.DataFrame, panels: Mapping[str, tuple[str, str]], title: str, columns: int = 4) -> Figure:
    """A panel for each column that the history has: column → (title, unit)."""
    present = {c: v for c, v in panels.items() if c in history and history[c].notna().any()}
    columns = min(columns, len(present))
    rows = -(-len(present) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(present) :]:
        ax.set_visible(False)
    for ax, (column, (name, unit)) in zip(axes.flat, present.items(), strict=False):
        _trace(ax, history, column, name, unit)
    fig.suptitle(title)
    return fig


def _reward_panels(history: pd.DataFrame) -> dict[str, tuple[str, str]]:
    names = {"total": "reward"} | reward_columns(history)
    return {column: (name if name == "total" else f"reward: {name}", POINTS) for name, column in names.items()}


def plot_rewards(history: pd.DataFrame, title: str = "Reward history") -> Figure:
    """What was learned (correctness, length, replies with a calculation), then the total reward and its other parts."""
    return _panels(history, LEARNED | _reward_panels(history), title, columns=3)


def plot_history(history: pd.DataFrame, title: str = "Training history") -> Figure:
    """Rewards and diagnostics in one figure."""
    return _panels(history, LEARNED | _reward_panels(history) | WATCHED, title)


def live(render: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame | None], None]:
    """One place in the notebook, filled again and again: None makes it, a table is rendered over what stood there."""
    from IPython.display import display  # a notebook's; the rest of the package does without

    handle = None

    def update(table: pd.DataFrame | None) -> None:
        nonlocal handle
        if table is None:
            handle = display(display_id=True)
        elif handle is not None:
            shown = render(table)
            handle.update(shown)
            if isinstance(shown, Figure):
                plt.close(shown)

    return update


def live_history(title: str) -> Callable[[pd.DataFrame | None], None]:
    """`plot_history`, drawn again while training goes on; one figure stays."""
    return live(functools.partial(plot_history, title=title))


def plot_loss_and_reward(history: pd.DataFrame, title: str = "The same run, two curves") -> Figure:
    """The logged loss beside the reward: the first says little, the second is what training is for."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7), layout="constrained")
    _trace(left, history, "loss", "loss", "loss (no unit)")
    left.axhline(0, color="black", linewidth=0.8)
    _trace(right, history, "reward", "reward")
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
