"""The loss and the advantages that notebooks 01 and 03 write out in their cells are TRL's, in values and gradients."""

import functools
import inspect

import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import selective_log_softmax

from grpo_helpers.profiles import DATA

from .cells import definitions
from .test_sampling import random_model

LONGEST = 12  # max_completion_length
pytestmark = pytest.mark.filterwarnings("ignore")
slow_start = settings(max_examples=150)
every_loss = pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
every_level = pytest.mark.parametrize("level", ["token", "sequence"])

TERMS = ("token_logps", "clipped_objective", "kl_estimate", "aggregate", "token_weights", "sequence_log_ratio")
taught = definitions("01_grpo_concepts", "group_advantages", "grpo_loss", *TERMS)
mixed = definitions("03_reward_design", "normalise", "normalise_then_sum")


# --- TRL's side ----------------------------------------------------------------


class Given(GRPOTrainer):
    """TRL's trainer, given its log-probabilities, its completions and its rewards, (completions, functions)."""

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        return self.logps, torch.zeros_like(self.logps), None

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return [[5, 6, 1]] * len(prompt_ids), None

    def _calculate_rewards(self, *args, **kwargs):
        return self.rewards


@functools.cache
def trl_trainer(loss_type="dapo", level="token"):
    options = {"num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": LONGEST}
    options |= {"use_bias_correction_kl": False}  # DeepSeekMath's form of the KL term
    options |= {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    config = GRPOConfig("outputs/never_written", loss_type=loss_type, importance_sampling_level=level, **options)
    trainer = Given(
        model=random_model(end=1),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}]),
        processing_class=AutoTokenizer.from_pretrained(DATA / "tiny_policy", padding_side="left"),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    trainer.model.train()
    return trainer


def trl_loss(trainer, tensors, beta=0.0, low=0.2, high=0.2, batches=1, tokens=None):
    """TRL's own `_compute_loss` for one of a step's `batches`, and its gradient; `tokens` are those of the step."""
    trainer.beta, trainer.epsilon_low, trainer.epsilon_high = beta, low, high
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = batches
    trainer.logps, mask = tensors["logps"].clone().requires_grad_(), tensors["mask"]
    inputs = {
        "prompt_ids": torch.full((len(mask), 1), 5),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.full(mask.shape, 6),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "num_items_in_batch": torch.tensor(tokens or mask.sum().item()),
        "ref_per_token_logps": tensors["ref_logps"],
    }
    if not torch.equal(tensors["old_logps"], tensors["logps"]):  # in the first pass over a batch TRL has none
        inputs["old_per_token_logps"] = tensors["old_logps"]
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss.detach(), *torch.autograd.grad(loss, trainer.logps)


def trl_advantages(rewards, num_generations, scale="group", how="sum_then_normalize", weights=(1.0,)):
    trainer = trl_trainer()
    trainer.num_generations, trainer.scale_rewards, trainer.beta = num_generations, scale, 0.0
    trainer.rewards, trainer.multi_objective_aggregation = rewards, how
    trainer.reward_funcs, trainer.reward_weights = [None] * len(weights), torch.tensor(weights)
    rows = [{"prompt": f"question {i // num_generations}"} for i in range(len(rewards))]
    return trainer._generate_and_score_completions(rows)["advantages"]


# --- the cells' side -------------------------------------------------------------


def batch(seed, completions, tokens, distance):
    """Random log-probabilities, now, then and of a reference, `distance` apart; advantages; ragged mask."""
    g = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(completions, tokens, generator=g, dtype=torch.float64)

    logps = -noise().abs()
    lengths = torch.randint(0, tokens + 1, (completions,), generator=g)
    lengths[seed % completions] = tokens
    return {
        "logps": logps,
        "old_logps": logps + distance * noise(),
        "ref_logps": logps + distance * noise(),
        "advantages": torch.randn(completions, generator=g, dtype=torch.float64),
        "mask": (torch.arange(tokens) < lengths[:, None]).long(),
    }


def with_gradient(loss_of, tensors):
    logps = tensors["logps"].clone().requires_grad_()
    loss = loss_of(logps)
    return loss.detach(), *torch.autograd.grad(loss, logps)


def by_terms(tensors, loss_type, level, beta=0.0, low=0.2, high=0.2):
    """Section 4 of notebook 01 put together: its ratio, clip, KL term and average."""
    old, mask = tensors["old_logps"], tensors["mask"]

    def loss_of(logps):
        log_ratio = logps - old if level == "token" else taught.sequence_log_ratio(logps, old, mask)
        value = taught.clipped_objective(log_ratio.exp(), tensors["advantages"], low, high)
        if beta:
            value = value - beta * taught.kl_estimate(logps, tensors["ref_logps"])
        return -taught.aggregate(value, mask, loss_type, LONGEST)

    return with_gradient(loss_of, tensors)


same = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
sizes = {
    "seed": st.integers(0, 2**31),
    "completions": st.integers(1, 8),
    "tokens": st.integers(1, LONGEST),
    "distance": st.sampled_from([0.0, 0.01, 0.2, 1.0]),
}
limits = {"low": st.sampled_from([3e-4, 0.2, 1.0]), "high": st.sampled_from([4e-4, 0.2, 0.28, 3.0])}


@every_level
@every_loss
@slow_start
@given(**sizes, **limits, beta=st.sampled_from([0.0, 0.04, 1.5]))
def test_the_terms_make_trls_loss(loss_type, level, seed, completions, tokens, distance, beta, low, high):
    tensors = batch(seed, completions, tokens, distance)
    expected = trl_loss(trl_trainer(loss_type, level), tensors, beta, low, high)
    same(by_terms(tensors, loss_type, level, beta, low, high), expected)


@every_loss
@slow_start
@given(**sizes)
def test_the_loss_of_the_loop_is_trls(loss_type, seed, completions, tokens, distance):
    tensors = batch(seed, completions, tokens, distance)
    old, advantages, mask = (tensors[name] for name in ("old_logps", "advantages", "mask"))
    loss = with_gradient(lambda logps: taught.grpo_loss(logps, old, advantages, mask, loss_type, LONGEST), tensors)
    same(loss, trl_loss(trl_trainer(loss_type), tensors))


@every_level
@every_loss
def test_clipping_is_active_and_differs_by_side(loss_type, level):
    """The comparisons above are worth something only where TRL clips; here it says that it does, on both sides."""
    tensors, trainer = batch(1, 40, LONGEST, 1.0), trl_trainer(loss_type, level)
    value, gradient = trl_loss(trainer, tensors, high=0.28)
    for side in ("low", "high"):
        assert trainer._metrics["train"][f"clip_ratio/{side}_mean"][-1] > 0.05
    unclipped = by_terms(tensors, loss_type, level, low=1.0, high=1e9)
    assert abs(unclipped[0] - value) > 1e-3
    assert abs(by_terms(tensors, loss_type, level)[0] - value) > 1e-6  # the upper limit at 0.2
    counted = tensors["mask"].bool()
    assert (gradient[counted] == 0).any() and not (unclipped[1][counted] == 0).any()


@every_loss
def test_the_weight_of_a_token_in_a_step_of_several_batches_is_trls(loss_type):
    """In the first pass a token's derivative is minus its advantage, here 1, times its weight."""
    step = [[5, 10], [3, LONGEST]]
    weights = []
    for lengths in step:
        zeros = torch.zeros(2, LONGEST, dtype=torch.float64)
        tensors = dict.fromkeys(("logps", "old_logps", "ref_logps"), zeros) | {
            "advantages": torch.ones(2, dtype=torch.float64),
            "mask": (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).long(),
        }
        _, gradient = trl_loss(trl_trainer(loss_type), tensors, batches=len(step), tokens=sum(map(sum, step)))
        weights += (-gradient[:, 0]).tolist()
    assert taught.token_weights(step, loss_type, LONGEST) == pytest.approx(weights)


def test_log_probabilities_and_their_gradient_are_trls():
    g = torch.Generator().manual_seed(0)
    logits, tokens = 5 * torch.randn(3, 4, 11, generator=g), torch.randint(0, 11, (3, 4), generator=g)
    weight = torch.randn(3, 4, generator=g)
    ours, trls = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    logps, expected = taught.token_logps(ours, tokens), selective_log_softmax(trls, tokens)
    torch.testing.assert_close(logps, expected)
    gradients = (torch.autograd.grad((x * weight).sum(), at)[0] for x, at in ((logps, ours), (expected, trls)))
    torch.testing.assert_close(*gradients)
    short = logits.bfloat16()  # 16 bits are worked on in 32
    assert torch.equal(taught.token_logps(short, tokens), taught.token_logps(short.float(), tokens))


# --- advantages --------------------------------------------------------------------

groups_of_four = st.lists(st.integers(-16, 32), min_size=4, max_size=32)  # in eighths, as the tag counts pay


@slow_start
@given(rewards=groups_of_four, scale=st.sampled_from(["group", "none"]), bonus=st.sampled_from([-2.0, 0.5, 100.0]))
def test_advantages_are_trls_sum_to_zero_and_forget_a_bonus(rewards, scale, bonus):
    rewards = torch.tensor(rewards[: len(rewards) // 4 * 4]) / 8
    advantages = taught.group_advantages(rewards, 4, scale)
    torch.testing.assert_close(advantages, trl_advantages(rewards[:, None], 4, scale), rtol=1e-5, atol=1e-6)
    assert advantages.view(-1, 4).sum(dim=1).abs().max() < 1e-4
    torch.testing.assert_close(taught.group_advantages(rewards + bonus, 4, scale), advantages, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["sum_then_normalize", "normalize_then_sum"])
def test_two_rewards_in_one_group_are_mixed_as_trl_does(how):
    weights = [1.0, 3.0]
    parts = pd.DataFrame({"tags": [0.5, 0.5, 0.25, 0.0, 0.125, 0.5], "length": [7.1, 3.0, 4.4, 9.9, 0.2, 5.0]})
    if how == "normalize_then_sum":
        by_hand = mixed.normalise_then_sum(parts, weights)
    else:
        by_hand = mixed.normalise((parts * weights).sum(axis=1))
    expected = trl_advantages(torch.tensor(parts.to_numpy()).float(), 6, how=how, weights=weights)
    assert by_hand.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_not_said_is_as_in_trl():
    """The defaults of the cells, read from TRL's configuration."""
    trls = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()}
    assert inspect.signature(taught.group_advantages).parameters["scale"].default == trls["scale_rewards"]
    assert inspect.signature(taught.grpo_loss).parameters["loss_type"].default == trls["loss_type"]
    limits = inspect.signature(taught.clipped_objective).parameters
    assert limits["epsilon_low"].default == limits["epsilon_high"].default == trls["epsilon"]
    assert trls["epsilon_high"] is None and trls["importance_sampling_level"] == "token" and trls["beta"] == 0
