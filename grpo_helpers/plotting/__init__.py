"""Figures that two notebooks need, and the style of all: readable without colour, with a sentence for each.

What one notebook needs is drawn in its cell, by pandas' `.plot` or on `panels`, in the style that this import sets.
"""

# ruff: noqa: F401

import pandas as pd

from ._alt import describe, register
from ._style import BLUE, GREEN, GREY, LOOKS, ORANGE, PURPLE, hatch, panels
from .history import SIGNALS, live, live_history, plot_history, plot_rewards, plot_signals, reward_columns, smooth
from .rates import plot_before_after, plot_intervals, plot_kinds, plot_rates, plot_reward_matrix

register()  # in a notebook, figures say what they show
pd.set_option("display.html.use_mathjax", False)  # and a dollar in a table is money, not the beginning of a formula
