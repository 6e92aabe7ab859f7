"""Checks for the notebooks' exercises, a file for each notebook.

A check takes the learner's function, calls it on small inputs and compares.
Notebooks stay executable from top to bottom with every exercise unsolved.
"""

# ruff: noqa: F401

from .notebook_01 import learns_from, leave_one_out, step_by_hand
from .notebook_02 import chance_of_a_pass, read_gold, silent_chance
from .notebook_03 import break_the_reward, disputed_group, never_fires
from .notebook_04 import merged_weight, most_completions, next_scale
from .notebook_05 import go_on_from, silent_groups, steps_shown
from .notebook_06 import chance_to_notice, questions_needed, verdict
from .notebook_07 import cuts_off, illnesses, name_the_patients
from .notebook_08 import chance_of_luck, reached_at, what_differs
from .notebook_09 import fewest_gpus, local_loss, same_step
from .notebook_10 import share_with_signal, three_numbers, uses_at_most
