"""The loader of a notebook's definitions."""

import pytest

from .cells import definitions


def test_a_definition_comes_with_what_it_uses_and_without_the_rest():
    cells = definitions("03_reward_design", "patched_reward_func")
    assert vars(cells).keys() == {"patched_reward_func"}
    space = cells.patched_reward_func.__globals__
    assert {"TAGS", "count_xml", "final_answer", "prompts", "rewards"} <= space.keys()
    assert not {"plotting", "profile", "SEED", "naive_reward_func"} & space.keys()
    assert cells.patched_reward_func(completions=["<answer>\n72\n</answer>"], answer=["72"]) == [3.0]


def test_a_name_that_is_not_there_or_is_a_value_that_a_cell_computes_is_named_with_those_that_are():
    for name in ("nothing_of_the_kind", "hacked"):  # this is a training run
        with pytest.raises(LookupError, match=rf"does not define {name}; .*patched_reward_func"):
            definitions("03_reward_design", "patched_reward_func", name)
