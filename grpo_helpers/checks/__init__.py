"""Checks for the notebooks' exercises, a file for each notebook.

A check takes the learner's function, calls it on small inputs and compares.
Notebooks stay executable from top to bottom with every exercise unsolved.
"""

from .notebook_05 import silent_groups, steps_shown
from .notebook_06 import questions_needed, verdict

__all__ = ["questions_needed", "silent_groups", "steps_shown", "verdict"]
