"""Losses and advantages that notebooks 01, 03 and 08 write out in their cells are TRL's, in values and gradients."""

import functools
import inspect
import itertools
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import selective_log_softmax

from grpo_helpers.profiles import DATA

from .cells import definitions
from .test_sampling import random_model

LONGEST = 12  # max_completion_length
pytestmark = pytest.mark.filterwarnings("ignore")
TERMS = ("token_logps", "clipped_objective", "kl_estimate", "aggregate", "token_weights")
taught = definitions("01_grpo_concepts", "group_advantages", "grpo_loss", *TERMS)
mixed = definitions("03_reward_design", "normalise", "normalise_then_sum")
every = definitions("08_experiments", "options", "loss_by_hand", "rloo_advantages", "rloo_loss")


PLAIN = [{"loss_type": name} for name in ("grpo", "bnpo", "dapo", "dr_grpo")]
SOFT = [{"loss_type": "cispo", "epsilon_high": 1.5}, {"loss_type": "cispo"}, {"loss_type": "sapo"}]
SOFT += [{"loss_type": "vespo"}, {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_neg": 1.0}]
SOFT += [{"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 0.5}]
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
LIMITS = {"epsilon": 0.1, "epsilon_high": 0.28}
SEQUENCE = [GSPO, GSPO | {"epsilon": 3e-4, "epsilon_high": 4e-4}, GSPO | {"loss_type": "luspo"}, {"loss_type": "luspo"}]
BETA, OLD_KL = {"beta": 0.3}, {"beta": 0.3, "use_bias_correction_kl": False}
ADDED = [LIMITS, {"delta": 1.5}, BETA, OLD_KL, GSPO | BETA, {"entropy_coef": 0.1}, {"top_entropy_quantile": 0.6}]
ADDED += [{"top_entropy_quantile": 0.6, "entropy_coef": 0.1} | BETA, {"off_policy_mask_threshold": 0.05}]
ALL = LIMITS | BETA | {"delta": 1.5, "entropy_coef": 0.1, "top_entropy_quantile": 0.6}
ALL |= {"off_policy_mask_threshold": 0.05}
ALL = [ALL | {"loss_type": name} for name in ("dr_grpo", "sapo", "cispo", "vespo", "luspo")] + [ALL | GSPO]
CASES = PLAIN + SOFT + SEQUENCE + ADDED + ALL
RLOO = [{}, {"epsilon": 0.001, "epsilon_high": 2.0}]


def terms_of_01(b, o):
    value = taught.clipped_objective((b.now - b.old).exp(), b.advantages[:, 0], o.epsilon, o.epsilon_high)
    value = value - o.beta * taught.kl_estimate(b.now, b.ref)
    return -taught.aggregate(value, b.mask, o.loss_type, o.max_completion_length)


def loop_of_01(b, o):
    return taught.grpo_loss(b.now, b.old, b.advantages[:, 0], b.mask, o.loss_type, o.max_completion_length)


HAND = [(every.loss_by_hand, GRPOTrainer, case) for case in CASES]
HAND += [(every.rloo_loss, RLOOTrainer, case) for case in RLOO]
HAND += [(loop_of_01, GRPOTrainer, case) for case in PLAIN]
HAND += [(terms_of_01, GRPOTrainer, case | LIMITS | OLD_KL) for case in PLAIN]


@functools.cache
def trained(trainer_class, options=()):
    """One of TRL's trainers with these options, on a small random model of 64 bits."""
    config = {GRPOTrainer: GRPOConfig, RLOOTrainer: RLOOConfig}[trainer_class]
    small = {"num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": LONGEST}
    small |= {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    trainer = trainer_class(
        model=random_model(1024, end=1).double(),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config("outputs/never_written", **small | dict(options) | {"beta": 0.0}),
        train_dataset=Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}]),
        processing_class=AutoTokenizer.from_pretrained(DATA / "tiny_policy", padding_side="left"),
    )
    trainer.beta = dict(options).get("beta", 0.0)  # set later, because TRL would load a reference by the model's name
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@functools.cache
def policy():
    return random_model(1024, end=1).double()


@functools.cache
def batch():
    """What TRL's `_compute_loss` takes: log-probabilities then and of a reference are near those now, or far.

    Sixteen completions, one of them without a token that counts, as if it had been cut off and masked.
    """
    g, rows, prompt = torch.Generator().manual_seed(0), 16, 3
    far = torch.tensor([0.02, 0.2, 0.6, 2.0], dtype=torch.float64).repeat_interleave(4)[:, None]
    ids = torch.randint(2, 64, (rows, prompt + LONGEST), generator=g)
    lengths = torch.randint(1, LONGEST + 1, (rows,), generator=g)
    lengths[4], lengths[5] = 0, LONGEST
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    said = {"prompt_ids": ids[:, :prompt], "prompt_mask": torch.ones(rows, prompt, dtype=torch.long)}
    said |= {"completion_ids": ids[:, prompt:], "completion_mask": mask}
    with torch.no_grad():
        now = selective_log_softmax(logits_of(policy(), said), said["completion_ids"])
    token, whole, reference = (far * torch.randn(rows, n, generator=g, dtype=far.dtype) for n in (LONGEST, 1, LONGEST))
    old = now + token / 2 + whole / 8
    return said | {
        "advantages": torch.randn(rows, generator=g, dtype=far.dtype),
        "num_items_in_batch": 2 * mask.sum(),  # in the whole step
        "old_per_token_logps": old, "old_logps": (old * mask).sum(dim=1), "ref_per_token_logps": now + reference,
    }  # fmt: skip


def with_gradient(loss, model):
    gradient = torch.autograd.grad(loss, [*model.parameters()])
    return loss.detach(), torch.cat([g.flatten() for g in gradient])


def by_trl(trainer_class, options, inputs):
    trainer = trained(trainer_class, tuple(options.items()))
    return with_gradient(trainer._compute_loss(trainer.model, inputs), trainer.model)


def logits_of(model, inputs):
    """Of the completions' tokens."""
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    return model(ids, attention_mask=mask).logits[:, -inputs["completion_ids"].shape[1] - 1 : -1]


def by_hand(hand, options, inputs):
    every_token = logits_of(policy(), inputs).log_softmax(dim=-1)
    b = SimpleNamespace(
        now=every_token.gather(-1, inputs["completion_ids"][..., None])[..., 0],
        old=inputs["old_per_token_logps"],
        ref=inputs["ref_per_token_logps"],
        entropy=-(every_token.exp() * every_token).sum(dim=-1),
        advantages=inputs["advantages"][:, None],
        mask=inputs["completion_mask"],
        step_tokens=inputs["num_items_in_batch"],
    )
    return with_gradient(hand(b, every.options(max_completion_length=LONGEST, **options)), policy())


@pytest.mark.parametrize(("hand", "trainer_class", "options"), HAND, ids=[f"{c[0].__name__} {c[2]}" for c in HAND])
def test_every_loss_by_hand_is_trls_in_value_and_gradient(hand, trainer_class, options):
    inputs = batch()
    if hand in (loop_of_01, terms_of_01):  # where a step is one batch
        inputs = inputs | {"num_items_in_batch": inputs["completion_mask"].sum()}
    for ours, trls in zip(by_hand(hand, options, inputs), by_trl(trainer_class, options, inputs), strict=True):
        assert torch.dist(ours, trls) <= 2e-5 * trls.norm() + 1e-7  # in 32 bits, in which TRL takes the logits


@pytest.mark.trains
def test_no_two_of_these_losses_are_the_same():
    """So each option is at work in the comparison above, which would not notice one that does nothing."""
    inputs = batch()
    gradients = {str(case): by_trl(GRPOTrainer, case, inputs)[1] for case in CASES}
    gradients |= {f"RLOO {case}": by_trl(RLOOTrainer, case, inputs)[1] for case in RLOO}
    alike = [pair for pair in itertools.combinations(gradients, 2) if torch.dist(*map(gradients.get, pair)) < 1e-3]
    assert not alike and len(gradients) == len(CASES) + len(RLOO)


@pytest.mark.parametrize("loss_type", [case["loss_type"] for case in PLAIN])
def test_the_weight_of_a_token_in_a_step_of_several_batches_is_trls(loss_type, monkeypatch):
    """In the first pass a token's derivative is minus its advantage, here 1, times its weight."""
    step, weights = [[5, 10], [3, LONGEST]], []
    trainer = trained(GRPOTrainer, (("loss_type", loss_type),))
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", len(step))
    monkeypatch.setattr(trainer.args, "steps_per_generation", len(step))
    for lengths in step:
        logps = torch.zeros(2, LONGEST, dtype=torch.float64, requires_grad=True)
        scored = logps, torch.zeros_like(logps), None
        monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *a, scored=scored, **k: scored)
        inputs = {name: tensor[:2] for name, tensor in batch().items() if tensor.dim() and not name.startswith("old")}
        inputs["completion_mask"] = (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).long()
        inputs |= {"advantages": torch.ones(2), "num_items_in_batch": torch.tensor(sum(map(sum, step)))}
        (gradient,) = torch.autograd.grad(trainer._compute_loss(trainer.model, inputs), logps)
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


def trl_advantages(rewards, num_generations, trainer_class=GRPOTrainer, how="sum_then_normalize", **changes):
    """TRL's advantages of these rewards, (completions, functions), and what it computed them from."""
    trainer = trained(trainer_class)
    changes |= {"num_generations": num_generations, "multi_objective_aggregation": how}
    changes |= {"reward_funcs": [None] * rewards.shape[1], "_calculate_rewards": lambda *args, **kwargs: rewards}
    said = [[5 + i, 6, 1] for i in range(len(rewards))]
    said = said if trainer_class is RLOOTrainer else (said, None)
    changes |= {"_generate_single_turn": lambda *args, **kwargs: said}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"reward_weights": torch.ones(rewards.shape[1])} | changes).items():
            patch.setattr(trainer, name, value, raising=False)
        rows = [{"prompt": f"question {i // num_generations}"} for i in range(len(rewards))]
        return trainer._generate_and_score_completions(rows)


groups_of_four = st.lists(st.integers(-16, 32), min_size=4, max_size=32)  # in eighths, as the tag counts pay


@settings(max_examples=50)
@given(rewards=groups_of_four, scale=st.sampled_from(["group", "none"]), bonus=st.sampled_from([-2.0, 0.5, 100.0]))
def test_advantages_are_trls_sum_to_zero_and_forget_a_bonus(rewards, scale, bonus):
    rewards = torch.tensor(rewards[: len(rewards) // 4 * 4]) / 8
    advantages = taught.group_advantages(rewards, 4, scale)
    torch.testing.assert_close(
        advantages, trl_advantages(rewards[:, None], 4, scale_rewards=scale)["advantages"], rtol=1e-5, atol=1e-6
    )
    assert advantages.view(-1, 4).sum(dim=1).abs().max() < 1e-4
    torch.testing.assert_close(taught.group_advantages(rewards + bonus, 4, scale), advantages, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["sum_then_normalize", "normalize_then_sum"])
def test_two_rewards_in_one_group_are_mixed_as_trl_does(how):
    weights = [1.0, 3.0]
    parts = pd.DataFrame({"tags": [0.5, 0.5, 0.25, 0.0, 0.125, 0.5], "length": [7.1, 3.0, 4.4, 9.9, 0.2, 5.0]})
    together = how == "sum_then_normalize"
    by_hand = mixed.normalise((parts * weights).sum(axis=1)) if together else mixed.normalise_then_sum(parts, weights)
    rewards = torch.tensor(parts.to_numpy()).float()
    expected = trl_advantages(rewards, 6, how=how, reward_weights=torch.tensor(weights))["advantages"]
    assert by_hand.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_rloo_takes_the_kl_off_the_reward_and_leaves_each_out_of_its_baseline(monkeypatch):
    rewards, trainer = torch.tensor([4.0, 0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 3.0]), trained(RLOOTrainer)
    monkeypatch.setattr(trainer, "ref_model", trained.__wrapped__(RLOOTrainer).model)
    with torch.no_grad():  # away from the reference, so that there is a KL to take off
        for number, parameter in enumerate(trainer.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            monkeypatch.setattr(parameter, "data", parameter + 0.3 * noise)
    scored = trl_advantages(rewards[:, None], 4, RLOOTrainer, beta=0.05)
    with torch.no_grad():
        models = (trainer.model, trainer.ref_model)
        old, ref = (selective_log_softmax(logits_of(m, scored), scored["completion_ids"]) for m in models)
    b = SimpleNamespace(old=old, ref=ref, mask=scored["completion_mask"])
    advantages = every.rloo_advantages(rewards, b, 4)[:, 0]
    torch.testing.assert_close(advantages, scored["advantages"].double(), rtol=1e-4, atol=1e-4)
    assert torch.dist(advantages, every.rloo_advantages(rewards, b, 4, beta=0.0)[:, 0]) > 1e-2


def test_what_is_not_said_is_as_in_trl():
    ours = {"scale_rewards": (taught.group_advantages, "scale"), "loss_type": (taught.grpo_loss, "loss_type")}
    for field, (func, name) in (ours | {"epsilon": (taught.clipped_objective, "epsilon_low")}).items():
        assert inspect.signature(func).parameters[name].default == GRPOConfig.__dataclass_fields__[field].default
