"""Every figure the notebooks draw: readable without colour, and each returns its Figure."""

from .evaluation import plot_before_after, plot_intervals
from .training import plot_diagnostics, plot_group, plot_loss_and_reward, plot_rewards, reward_columns, smooth

__all__ = [
    "plot_before_after",
    "plot_diagnostics",
    "plot_group",
    "plot_intervals",
    "plot_loss_and_reward",
    "plot_rewards",
    "reward_columns",
    "smooth",
]
