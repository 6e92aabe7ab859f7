"""The checks of notebook 09's exercises: right functions pass, near misses are told what is missing."""

import math

import pytest

from grpo_helpers.checks.notebook_09 import fewest_gpus, local_loss, same_step
from grpo_helpers.lessons import scaling


def said(check, function, capsys):
    check(function)
    return capsys.readouterr().out


def accumulation(prompts, num_generations, processes, batch):
    """By trying: the only way that needs no thought."""
    for tried in range(1, prompts * num_generations + 1):
        if processes * batch * tried == prompts * num_generations:
            return tried
    return 0


def test_trying_every_accumulation_is_accepted(capsys):
    assert said(same_step, accumulation, capsys) == "Solved.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda prompts, group, processes, batch: prompts * group // (processes * batch),
        lambda prompts, group, processes, batch: prompts * group / (processes * batch),
        lambda prompts, group, processes, batch: prompts // (processes * batch),
        lambda prompts, group, processes, batch: max(1, accumulation(prompts, group, processes, batch)),
    ],
    ids=["rounded down", "a fraction", "the group forgotten", "never none"],
)
def test_other_accumulations_are_not(wrong, capsys):
    assert said(same_step, wrong, capsys).startswith("Not yet: ")


def test_what_the_calculator_accepts_has_the_prompts_asked_for(capsys):
    def by_calculator(prompts, num_generations, processes, batch):
        found = accumulation(prompts, num_generations, processes, batch)
        assert not found or scaling.Step(processes, batch, found, num_generations).prompts == prompts
        return found

    assert said(same_step, by_calculator, capsys) == "Solved.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda losses, tokens, processes: sum(losses) / len(losses),
        lambda losses, tokens, processes: sum(losses) / tokens,
        lambda losses, tokens, processes: sum(losses) * processes / len(losses),
        lambda losses, tokens, processes: sum(losses) * len(losses) / tokens,
    ],
    ids=["its own mean", "too small by the number of processes", "its own tokens", "weighted twice"],
)
def test_other_losses_are_not_accepted(wrong, capsys):
    assert said(local_loss, wrong, capsys).startswith("Not yet: for two processes")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda billions, rest, budget: math.ceil(16 * billions / budget),
        lambda billions, rest, budget: int(16 * billions // max(budget - rest, 1)) + 1,
        lambda billions, rest, budget: math.ceil((16 * billions + rest) / budget),
        lambda billions, rest, budget: math.ceil(2 * billions / max(budget - rest, 1)),
        lambda billions, rest, budget: math.ceil(16 * billions / (budget - rest)),
    ],
    ids=["the rest forgotten", "one too many", "the rest sliced", "weights alone", "no way out"],
)
def test_other_numbers_of_gpus_are_not_accepted(wrong, capsys):
    assert said(fewest_gpus, wrong, capsys).startswith("Not yet: ")
