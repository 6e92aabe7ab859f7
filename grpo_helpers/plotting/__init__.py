"""Every figure the notebooks draw: readable without colour, and each returns its Figure."""

from .concepts import live_rewards, plot_bars, plot_clip, plot_lines, plot_networks, plot_push, plot_ratios, plot_tokens
from .evaluation import plot_before_after, plot_intervals
from .memory import plot_budget, plot_gradient_range, plot_peaks, plot_planned_measured
from .prompts import plot_lengths, plot_passes, plot_silent, plot_truncation, plot_variants
from .rewards import plot_advantages, plot_outcomes, plot_reward_matrix, plot_runs
from .training import plot_diagnostics, plot_group, plot_loss_and_reward, plot_rewards, reward_columns, smooth

__all__ = [
    "live_rewards",
    "plot_advantages",
    "plot_bars",
    "plot_before_after",
    "plot_budget",
    "plot_clip",
    "plot_diagnostics",
    "plot_gradient_range",
    "plot_group",
    "plot_intervals",
    "plot_lengths",
    "plot_lines",
    "plot_loss_and_reward",
    "plot_networks",
    "plot_outcomes",
    "plot_passes",
    "plot_peaks",
    "plot_planned_measured",
    "plot_push",
    "plot_ratios",
    "plot_reward_matrix",
    "plot_rewards",
    "plot_runs",
    "plot_silent",
    "plot_tokens",
    "plot_truncation",
    "plot_variants",
    "reward_columns",
    "smooth",
]
