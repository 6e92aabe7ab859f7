"""Figures of a log: what TRL writes down at each step, one panel a column."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..rewards import MAX_REWARD, MOST, short_name
from ._style import GREY, LOOKS, panels

POINTS = "mean reward (points)"
CORRECT = "rewards/correctness_reward_func/mean"
# what TRL logs: column → title and unit of its panel
SIGNALS: Mapping[str, tuple[str, str]] = {
    "reward": ("total reward", POINTS),
    CORRECT: ("correctness", POINTS),
    "completions/mean_length": ("mean completion length", "tokens"),
    "completions/worked": ("completions with a calculation", "%"),
    "completions/clipped_ratio": ("completions cut off", "%"),
    "frac_reward_zero_std": ("tied groups", "%"),
    "entropy": ("entropy of the policy", "nats a token"),
    "kl": ("KL to the reference", "nats a token"),
    "grad_norm": ("gradient norm", "no unit"),
}
LEARNED = (CORRECT, "completions/mean_length", "completions/worked")  # the first panels of a history
WATCHED = ("completions/clipped_ratio", "frac_reward_zero_std", "entropy", "kl")


def reward_columns(history: pd.DataFrame) -> dict[str, str]:
    """The mean of each reward function in a history: short name → column."""
    columns = [c for c in history.columns if c.startswith("rewards/") and c.endswith("/mean")]
    return {short_name(c.split("/")[1]): c for c in columns}


def smooth(values: pd.Series, window: int = 5) -> pd.Series:
    """A centred running mean; shorter at both ends, so that no step is lost."""
    return values.rolling(window, center=True, min_periods=1).mean()


def _signal(column: str) -> tuple[str, str]:
    """Title and unit of a panel; a reward function that SIGNALS does not know pays points."""
    name = short_name(column.removeprefix("rewards/").removesuffix("/mean"))
    return SIGNALS.get(column, (name, POINTS if column.startswith("rewards/") else "no unit"))


def _most(history: pd.DataFrame, column: str) -> float | None:
    """The most that a reward can be, if its functions are the series' own."""
    if column == "reward":
        paid = set(reward_columns(history).values())
        return MAX_REWARD if paid == {f"rewards/{name}/mean" for name in MOST} else None
    return MOST.get(column.removeprefix("rewards/").removesuffix("/mean"))


def plot_signals(
    runs: Mapping[str, pd.DataFrame], title: str, columns: Sequence[str] = tuple(SIGNALS), per_row: int = 3
) -> Figure:
    """A panel for each column of the log, a line style for each run: running means over five steps.

    `runs` are label → history, `columns` names as TRL logs them. Thin lines show single steps, grey if there is but one
    run; that has the most that can be earned dashed. A panel stays, and says so, where no run has logged its column.
    """
    figure = panels(len(columns), title, per_row)
    for ax, column in zip(figure.axes, columns, strict=True):
        name, unit = _signal(column)
        for (label, history), look in zip(runs.items(), itertools.cycle(LOOKS), strict=False):
            if column not in history or history[column].isna().all():
                continue
            values = history[column].replace([np.inf, -np.inf], np.nan) * (100 if unit == "%" else 1)
            thin = {"color": GREY, "alpha": 0.8} if len(runs) == 1 else {"color": look["color"], "alpha": 0.3}
            ax.plot(history["step"], values, linestyle="-", linewidth=0.8, **thin)
            if len(runs) == 1 and (most := _most(history, column)) is not None:
                ax.axhline(most, color="black", linestyle="--", linewidth=1)
            ax.plot(history["step"], smooth(values), linewidth=1.8, label=label, **look)
        if not ax.lines:
            ax.text(0.5, 0.5, "not logged", ha="center", va="center", transform=ax.transAxes)
        ax.set(title=name, xlabel="optimizer step", ylabel=unit)
        ax.set_ylim((-3, 103) if unit == "%" else (min(0.0, ax.get_ylim()[0]), None))
    if len(runs) > 1:
        lines = {line.get_label(): line for ax in figure.axes for line in ax.lines if line.get_label() in runs}
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=len(runs))
    return figure


def _logged(history: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    return [c for c in dict.fromkeys(columns) if c in history and history[c].notna().any()]


def plot_rewards(history: pd.DataFrame, title: str) -> Figure:
    """What was learned (correctness, length, replies with a calculation), then the total reward and its other parts."""
    columns = _logged(history, (*LEARNED, "reward", *reward_columns(history).values()))
    return plot_signals({"this run": history}, title, columns)


def plot_history(history: pd.DataFrame, title: str) -> Figure:
    """What was learned, the total reward, rewards that the series does not know, and diagnostics: two panels a row."""
    others = [column for column in reward_columns(history).values() if column.split("/")[1] not in MOST]
    columns = _logged(history, (*LEARNED, "reward", *others, *WATCHED))
    return plot_signals({"this run": history}, title, columns, per_row=2)


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
