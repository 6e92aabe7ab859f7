"""`objective` must be TRL's loss, values and gradients, and so must what notebook 01 writes out by hand."""

import functools
import inspect
import math
import re

import nbformat
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from grpo_helpers import objective
from grpo_helpers.objective import (
    LOSS_TYPES,
    RATIO_LEVELS,
    SCALES,
    aggregate,
    clipped_objective,
    group_advantages,
    grpo_loss,
    kl_estimate,
    log_ratio,
    token_logps,
)
from grpo_helpers.profiles import DATA, ROOT

from .test_trainer import random_model

LONGEST = 12  # max_completion_length
pytestmark = pytest.mark.filterwarnings("ignore")
slow_start = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class GivenLogps(GRPOTrainer):
    """TRL's trainer, given its completions, its rewards and, if `logps` is set, its log-probabilities."""

    logps = None

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        if self.logps is None:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        return self.logps, torch.zeros_like(self.logps), None

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return [[5, 6, 1]] * len(prompt_ids), None

    def _calculate_rewards(self, *args, **kwargs):
        return self.rewards[:, None]


@functools.cache
def trl_trainer(loss_type="dapo", level="token", folder="outputs/never_written"):
    config = GRPOConfig(
        output_dir=folder,
        loss_type=loss_type,
        importance_sampling_level=level,
        num_generations=2,
        per_device_train_batch_size=2,
        max_completion_length=LONGEST,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
    )
    trainer = GivenLogps(
        model=random_model(lora=False),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}]),
        processing_class=AutoTokenizer.from_pretrained(DATA / "tiny_policy", padding_side="left"),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # set by `train()`, which is not called here
    return trainer


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


def trl_loss(trainer, tensors, beta, correct_kl, low, high, on_policy=False, num_tokens=None):
    """TRL's own `_compute_loss` on these log-probabilities: value and gradient."""
    trainer.beta, trainer.epsilon_low, trainer.epsilon_high = beta, low, high
    trainer.args.use_bias_correction_kl = correct_kl
    mask = tensors["mask"]
    trainer.logps = tensors["logps"].clone().requires_grad_()
    inputs = {
        "prompt_ids": torch.full((len(mask), 1), 5),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.full(mask.shape, 6),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "num_items_in_batch": mask.sum() if num_tokens is None else torch.tensor(num_tokens),
        "ref_per_token_logps": tensors["ref_logps"],
    }
    if not on_policy:
        inputs["old_per_token_logps"] = tensors["old_logps"]
    loss = trainer._compute_loss(trainer.model, inputs)
    (gradient,) = torch.autograd.grad(loss, trainer.logps)
    return loss.detach(), gradient


def our_loss(tensors, **options):
    logps = tensors["logps"].clone().requires_grad_()
    loss = grpo_loss(
        logps,
        tensors.get("old_logps", logps.detach()),
        tensors["advantages"],
        tensors["mask"],
        ref_logps=tensors["ref_logps"],
        max_completion_length=LONGEST,
        **options,
    )
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.detach(), gradient


sizes = {
    "seed": st.integers(0, 2**31),
    "completions": st.integers(1, 8),
    "tokens": st.integers(1, LONGEST),
    "distance": st.sampled_from([0.01, 0.2, 1.0]),
    "beta": st.sampled_from([0.0, 0.04, 1.5]),
    "correct_kl": st.booleans(),
    "low": st.sampled_from([3e-4, 0.2, 1.0]),
    "high": st.sampled_from([4e-4, 0.2, 0.28, 3.0]),
}
every_loss = pytest.mark.parametrize("loss_type", LOSS_TYPES)
every_level = pytest.mark.parametrize("level", RATIO_LEVELS)


@every_level
@every_loss
@slow_start
@given(**sizes)
def test_loss_and_gradient_are_trls(loss_type, level, seed, completions, tokens, distance, beta, correct_kl, low, high):
    tensors = batch(seed, completions, tokens, distance)
    expected = trl_loss(trl_trainer(loss_type, level), tensors, beta, correct_kl, low, high)
    got = our_loss(
        tensors,
        loss_type=loss_type,
        level=level,
        beta=beta,
        correct_kl=correct_kl,
        epsilon_low=low,
        epsilon_high=high,
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert not got[1][tensors["mask"] == 0].any()  # what comes after the end moves nothing


@every_level
@every_loss
def test_first_pass_over_a_batch_is_trls(loss_type, level):
    tensors = batch(0, 8, LONGEST, 1.0)
    expected = trl_loss(trl_trainer(loss_type, level), tensors, 0.04, True, 0.2, 0.2, on_policy=True)
    del tensors["old_logps"]
    got = our_loss(tensors, loss_type=loss_type, level=level, beta=0.04)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@every_level
@every_loss
def test_clipping_is_active_and_differs_by_side(loss_type, level):
    """The comparison above is worth something only where TRL clips; here it says that it does, on both sides."""
    tensors = batch(1, 40, LONGEST, 1.0)
    trainer = trl_trainer(loss_type, level)
    value, gradient = trl_loss(trainer, tensors, 0.0, True, 0.2, 0.28)
    for side in ("low", "high"):
        assert trainer._metrics["train"][f"clip_ratio/{side}_mean"][-1] > 0.05
    clipped = our_loss(tensors, loss_type=loss_type, level=level, epsilon_low=0.2, epsilon_high=0.28)
    torch.testing.assert_close(clipped, (value, gradient), rtol=1e-10, atol=1e-12)
    unclipped = our_loss(tensors, loss_type=loss_type, level=level, epsilon_low=1.0, epsilon_high=1e9)
    symmetric = our_loss(tensors, loss_type=loss_type, level=level)
    assert abs(unclipped[0] - value) > 1e-3 and abs(symmetric[0] - value) > 1e-6
    counted = tensors["mask"].bool() & (tensors["advantages"] != 0)[:, None]
    assert (gradient[counted] == 0).any() and not (unclipped[1][counted] == 0).any()


@slow_start
@given(rewards=st.lists(st.integers(-16, 32), min_size=2, max_size=24), scale=st.sampled_from(SCALES))
def test_advantages_are_trls(rewards, scale):
    """TRL's `_generate_and_score_completions` on given rewards; eighths, as the tag counts pay."""
    rewards = torch.tensor(rewards[: len(rewards) // 2 * 2]) / 8
    trainer = trl_trainer()
    trainer.logps, trainer.beta, trainer.scale_rewards, trainer.rewards = None, 0.0, scale, rewards
    rows = [{"prompt": f"question {i // 2}"} for i in range(len(rewards))]
    expected = trainer._generate_and_score_completions(rows)["advantages"]
    torch.testing.assert_close(group_advantages(rewards, 2, scale), expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_loss_and_gradient_are_trls_through_a_model(loss_type):
    """From token ids to the gradient of the weights, with TRL's own forward pass."""
    trainer = trl_trainer(loss_type)
    trainer.logps, trainer.beta, trainer.epsilon_low, trainer.epsilon_high = None, 0.0, 0.2, 0.2
    ids = torch.tensor([[5, 6, 7, 20, 21, 1], [0, 5, 9, 22, 1, 0], [5, 6, 7, 23, 24, 25], [0, 5, 9, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]])
    advantages = torch.tensor([1.2, -0.4, -1.2, 0.4])
    inputs = {
        "prompt_ids": ids[:, :3],
        "prompt_mask": mask[:, :3],
        "completion_ids": ids[:, 3:],
        "completion_mask": mask[:, 3:],
        "advantages": advantages,
        "num_items_in_batch": mask[:, 3:].sum(),
    }
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    expected = trainer._compute_loss(trainer.model, inputs)
    expected_gradients = torch.autograd.grad(expected, weights)

    logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, 2:-1]
    logps = token_logps(logits, ids[:, 3:])
    loss = grpo_loss(logps, logps.detach(), advantages, mask[:, 3:], loss_type=loss_type, max_completion_length=LONGEST)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    got = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(got, expected_gradients, rtol=1e-3, atol=1e-6)
    assert max(g.abs().max() for g in got) > 1e-3


@every_level
def test_dapo_over_parts_of_a_step_is_dapo_over_the_whole(level):
    tensors = batch(3, 8, LONGEST, 0.3)
    parts = [{k: v[rows] for k, v in tensors.items()} for rows in (slice(0, 2), slice(2, 8))]
    total = float(tensors["mask"].sum())
    whole, gradient = our_loss(tensors, level=level, loss_type="dapo")
    pieces = [our_loss(part, level=level, loss_type="dapo", num_tokens=total) for part in parts]
    torch.testing.assert_close(sum(loss for loss, _ in pieces), whole)
    torch.testing.assert_close(torch.cat([g for _, g in pieces]), gradient)


@every_level
@every_loss
def test_a_part_of_a_step_is_trls(loss_type, level):
    """Only dapo divides by the tokens of the whole step; here 17 of them lie in other parts."""
    tensors = batch(3, 8, LONGEST, 0.3)
    total = float(tensors["mask"].sum()) + 17
    expected = trl_loss(trl_trainer(loss_type, level), tensors, 0.0, True, 0.2, 0.2, num_tokens=total)
    got = our_loss(tensors, loss_type=loss_type, level=level, num_tokens=total)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(
    rewards=st.lists(st.integers(0, 32), min_size=4, max_size=32),
    scale=st.sampled_from(SCALES),
    shift=st.sampled_from([-2.0, 0.5, 100.0]),
)
def test_advantages_sum_to_zero_in_each_group_and_forget_a_constant(rewards, scale, shift):
    rewards = torch.tensor(rewards[: len(rewards) // 4 * 4], dtype=torch.float64) / 8
    advantages = group_advantages(rewards, 4, scale)
    groups = advantages.view(-1, 4)
    torch.testing.assert_close(groups.sum(dim=1), torch.zeros(len(groups), dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(group_advantages(rewards + shift, 4, scale), advantages, rtol=1e-6, atol=1e-9)
    for reward, advantage in zip(rewards.view(-1, 4), groups, strict=True):
        assert reward.argmax() == advantage.argmax() or reward.max() == reward[advantage.argmax()]


def test_advantages_by_hand():
    rewards = torch.tensor([4, 0, 2, 2, 1, 1, 1, 1])
    std = math.sqrt(8 / 3)
    expected = [2 / (std + 1e-4), -2 / (std + 1e-4), 0, 0, 0, 0, 0, 0]
    torch.testing.assert_close(group_advantages(rewards, 4), torch.tensor(expected))
    torch.testing.assert_close(group_advantages(rewards, 4, "none"), torch.tensor([2.0, -2, 0, 0, 0, 0, 0, 0]))


def test_token_logps_are_those_of_a_distribution():
    logits = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(1))
    for temperature in (1.0, 0.7):
        expected = torch.distributions.Categorical(logits=logits / temperature).log_prob(tokens)
        torch.testing.assert_close(token_logps(logits, tokens, temperature), expected)
    everything = torch.arange(11).repeat(3, 4, 1).permute(2, 0, 1)
    total = sum(token_logps(logits, token).exp() for token in everything)
    torch.testing.assert_close(total, torch.ones(3, 4))


def test_logits_of_16_bits_are_worked_on_in_32():
    logits = 5 * torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(1))
    logps = token_logps(logits, tokens)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, token_logps(logits.float(), tokens), rtol=0, atol=0)


def test_the_kl_estimate_is_never_negative_and_right_on_average():
    g = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(2))
    estimates = kl_estimate(policy[None], reference[None])[0]
    assert (estimates >= 0).all()
    divergence = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=p) for p in (policy, reference))
    )
    torch.testing.assert_close((policy.exp() * estimates).sum(), divergence)


def test_what_is_not_said_is_as_in_trl():
    """The defaults, read from TRL's configuration."""
    config = trl_trainer().args
    defaults = {
        name: parameter.default
        for function in (group_advantages, clipped_objective, grpo_loss)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    assert defaults["epsilon_high"] is None and config.epsilon_high in (None, config.epsilon)
    for ours, trls in (
        ("scale", "scale_rewards"),
        ("epsilon_low", "epsilon"),
        ("beta", "beta"),
        ("correct_kl", "use_bias_correction_kl"),
        ("level", "importance_sampling_level"),
        ("loss_type", "loss_type"),
    ):
        assert defaults[ours] == GRPOConfig.__dataclass_fields__[trls].default, ours
    ratio, advantages = torch.tensor([[0.5, 1.5]] * 2), torch.tensor([1.0, -1.0])
    torch.testing.assert_close(clipped_objective(ratio, advantages), torch.tensor([[0.5, 1.2], [-0.8, -1.5]]))


def zeros(*shape):
    return torch.zeros(shape)


ones, half = torch.ones(4, 6), torch.full((4,), 0.5)
bad_input = {
    "a batch that no group divides": (lambda: group_advantages(zeros(10), 4), r"\(10,\).*num_generations=4"),
    "no rewards": (lambda: group_advantages(zeros(0), 4), r"\(0,\).*num_generations=4"),
    "a group of one": (lambda: group_advantages(zeros(4), 1), r"num_generations=1 with rewards \(4,\)"),
    "rewards as a table": (lambda: group_advantages(zeros(4, 2), 4), r"\(4, 2\).*one reward for each completion"),
    "NaN reward": (lambda: group_advantages(torch.tensor([0.0, math.nan, 1, 2]), 2), r"\(4,\).*at \[1\].*nan"),
    "infinite reward": (lambda: group_advantages(torch.tensor([0.0, 1, -math.inf, 2]), 2), r"\(4,\).*at \[2\].*-inf"),
    "unknown scale": (lambda: group_advantages(zeros(4), 2, "std"), "scale='std'; choose one of group, batch, none"),
    "logits not shifted": (lambda: token_logps(zeros(4, 7, 9), zeros(4, 6).long()), r"\(4, 7, 9\).*\(4, 6\)"),
    "logits of one row": (lambda: token_logps(zeros(7, 9), zeros(7).long()), r"\(7, 9\).*\(7,\)"),
    "temperature 0": (lambda: token_logps(zeros(4, 6, 9), zeros(4, 6).long(), 0.0), "temperature=0.0"),
    "old log-probs of another batch": (lambda: log_ratio(ones, zeros(8, 6), ones), r"\(4, 6\).*\(8, 6\)"),
    "log-probs summed too early": (lambda: grpo_loss(half, half, half, half), r"logps \(4,\).*mask \(4,\)"),
    "mask of another length": (lambda: grpo_loss(ones, ones, half, zeros(4, 5)), r"\(4, 6\).*mask \(4, 5\)"),
    "unknown level": (lambda: log_ratio(ones, ones, ones, "word"), "level='word'; choose one of token, sequence"),
    "advantages as a column": (lambda: clipped_objective(ones, half[:, None]), r"\(4, 6\).*advantages \(4, 1\)"),
    "too few advantages": (lambda: grpo_loss(ones, ones, half[:3], ones), r"\(4, 6\).*advantages \(3,\)"),
    "epsilon above 1": (lambda: clipped_objective(ones, half, 1.5), "epsilon_low=1.5"),
    "reference of another batch": (lambda: kl_estimate(ones, zeros(4, 5)), r"logps \(4, 6\).*ref_logps \(4, 5\)"),
    "beta without reference": (lambda: grpo_loss(ones, ones, half, ones, beta=0.1), r"beta=0.1.*\(4, 6\)"),
    "unknown loss": (lambda: aggregate(ones, ones, "ppo"), "loss_type='ppo'; choose one of grpo, bnpo, dapo, dr_grpo"),
    "empty mask": (lambda: aggregate(ones, zeros(4, 6)), r"mask of shape \(4, 6\) is 0 everywhere"),
    "values of another batch": (lambda: aggregate(zeros(3, 6), ones), r"values \(3, 6\).*mask \(4, 6\)"),
    "dr_grpo without its constant": (lambda: aggregate(ones, ones, "dr_grpo"), r"None for a mask of shape \(4, 6\)"),
    "dr_grpo with too short a one": (lambda: aggregate(ones, ones, "dr_grpo", 5), r"=5 for a mask of shape \(4, 6\)"),
    "a step without tokens": (lambda: aggregate(ones, ones, "dapo", num_tokens=0), r"num_tokens=0.*\(4, 6\)"),
}


@pytest.mark.parametrize("call, message", bad_input.values(), ids=bad_input)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        call()


# --- the cells of notebook 01 that define what `objective` holds ---

CELLS = ("def-advantages", "def-logps", "def-clip", "def-kl", "def-aggregate", "def-sequence", "def-loss")


@pytest.fixture(scope="module")
def taught():
    """The functions of notebook 01, from its cells as they are."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_grpo_concepts.ipynb", as_version=4)
    sources = {c.id: c.source for c in notebook.cells if c.cell_type == "code"}
    namespace = {"torch": torch}
    for cell in CELLS:
        exec(compile(sources[cell], f"01_grpo_concepts.ipynb, {cell}", "exec"), namespace)
    return namespace


@slow_start
@given(**{name: sizes[name] for name in ("seed", "completions", "tokens", "distance", "low", "high")})
def test_the_notebooks_own_cells_are_the_same_functions(taught, seed, completions, tokens, distance, low, high):
    tensors = batch(seed, completions, tokens, distance)
    logps, old, ref, advantages, mask = tensors.values()
    ratio = (logps - old).exp()
    pairs = {
        "clip": (
            taught["clipped_objective"](ratio, advantages, low, high),
            clipped_objective(ratio, advantages, low, high),
        ),
        "kl": (taught["kl_estimate"](logps, ref), kl_estimate(logps, ref)),
        "sequence": (taught["sequence_log_ratio"](logps, old, mask), log_ratio(logps, old, mask, "sequence")),
    }
    for loss_type in LOSS_TYPES:
        pairs[loss_type] = (
            taught["aggregate"](logps, mask, loss_type, LONGEST),
            aggregate(logps, mask, loss_type, LONGEST),
        )
        pairs[f"{loss_type} loss"] = (
            taught["grpo_loss"](logps, old, advantages, mask, loss_type, LONGEST),
            grpo_loss(logps, old, advantages, mask, loss_type=loss_type, max_completion_length=LONGEST),
        )
    for name, (by_hand, helper) in pairs.items():
        torch.testing.assert_close(by_hand, helper, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@given(rewards=st.lists(st.integers(0, 32), min_size=4, max_size=16), scale=st.sampled_from(["group", "none"]))
def test_the_notebooks_advantages_are_the_same(taught, rewards, scale):
    rewards = torch.tensor(rewards[: len(rewards) // 4 * 4]) / 8
    torch.testing.assert_close(taught["group_advantages"](rewards, 4, scale), group_advantages(rewards, 4, scale))


def test_the_notebooks_log_probabilities_are_the_same(taught):
    logits = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(taught["token_logps"](logits, tokens), objective.token_logps(logits, tokens))
