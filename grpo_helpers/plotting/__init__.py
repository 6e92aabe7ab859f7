"""Every figure the notebooks draw: readable without colour, and each returns its Figure."""

import pandas as pd

from ._alt import describe, register
from .concepts import plot_bars, plot_clip, plot_lines, plot_networks, plot_push, plot_ratios, plot_tokens
from .evaluation import plot_before_after, plot_intervals, plot_kinds, plot_pass_at_k
from .experiments import plot_grid, plot_settings
from .memory import plot_budget, plot_gradient_range, plot_peaks, plot_planned_measured
from .prompts import plot_lengths, plot_passes, plot_silent, plot_truncation, plot_variants
from .rewards import plot_advantages, plot_outcomes, plot_reward_matrix, plot_runs
from .runs import plot_reply_lengths, plot_signals
from .scaling import plot_engines, plot_where
from .speed import plot_step_time
from .training import (
    live,
    live_history,
    plot_group,
    plot_history,
    plot_loss_and_reward,
    plot_rewards,
    reward_columns,
    smooth,
)

register()  # in a notebook, figures say what they show
pd.set_option("display.html.use_mathjax", False)  # and a dollar in a table is money, not the beginning of a formula

__all__ = [
    "describe",
    "live",
    "live_history",
    "plot_advantages",
    "plot_bars",
    "plot_before_after",
    "plot_budget",
    "plot_clip",
    "plot_engines",
    "plot_gradient_range",
    "plot_grid",
    "plot_group",
    "plot_history",
    "plot_intervals",
    "plot_kinds",
    "plot_lengths",
    "plot_lines",
    "plot_loss_and_reward",
    "plot_networks",
    "plot_outcomes",
    "plot_pass_at_k",
    "plot_passes",
    "plot_peaks",
    "plot_planned_measured",
    "plot_push",
    "plot_ratios",
    "plot_reply_lengths",
    "plot_reward_matrix",
    "plot_rewards",
    "plot_runs",
    "plot_settings",
    "plot_signals",
    "plot_silent",
    "plot_step_time",
    "plot_tokens",
    "plot_truncation",
    "plot_variants",
    "plot_where",
    "reward_columns",
    "smooth",
]
