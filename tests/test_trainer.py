"""Log-probabilities with each prompt run once must be those, gradients included, of a plain forward."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence

from grpo_helpers import data, models, records, training
from grpo_helpers.fast import sampling, trainer
from grpo_helpers.fast.sampling import pad_left
from grpo_helpers.fast.trainer import SharedPromptTrainer, completion_logps
from grpo_helpers.models import causal_lm
from grpo_helpers.profiles import ATTENTION, TINY
from grpo_helpers.prompts import prompt_ids

from .test_sampling import random_model

BATCHES = {
    "groups of two, common beginning": (
        [[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 9], [5, 6, 9], [5, 6, 7, 8, 10, 11], [5, 6, 7, 8, 10, 11]],
        [[20, 21, 22, 1], [23, 1], [24, 25, 26, 27, 28], [1], [29, 30, 31], [20, 21, 1]],
    ),
    "ragged, no common beginning": ([[5], [6, 7, 8], [9, 10]], [[20, 21], [22, 23, 24, 1], [25]]),
    "groups mixed up": ([[5, 6], [7], [5, 6], [7], [5, 6]], [[20], [21, 22], [23, 24, 25], [26, 1], [27, 1]]),
    "one row": ([[5, 6, 7]], [[20, 21, 1]]),
    "ends at once, all of them": ([[5, 6], [5, 6], [7]], [[1], [20], [1]]),
}


def adapted(model, **options):
    config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return get_peft_model(model, config).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["all weights", "LoRA"])
def model(request):
    return adapted(random_model(end=1), target_modules=list(ATTENTION)) if request.param else random_model(end=1)


def tensors(batch):
    """The batch as TRL passes it: prompts padded on the left, completions on the right."""
    prompts, completions = batch
    ids = pad_sequence(list(map(torch.tensor, completions)), batch_first=True)
    return *pad_left(prompts, 0, "cpu"), ids, (ids > 0).long()


def plain_logps(model, batch, temperature):
    """Row by row without padding or cache; log-probabilities and entropies, zero after the end."""
    rows = []
    for prompt, completion in zip(*batch, strict=True):
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        logps = (logits / temperature).log_softmax(dim=-1)
        entropy = torch.distributions.Categorical(logits=logits / temperature).entropy()
        rows.append((logps[range(len(completion)), completion], entropy))
    return tuple(pad_sequence(parts, batch_first=True) for parts in zip(*rows, strict=True))


def gradients(model, logps):
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((weights * logps).sum(), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize(("temperature", "tokens", "rows"), [(1.0, trainer.SCORE_CHUNK, 16), (0.7, 3, 2)])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_scores_and_gradients_equal_those_of_a_plain_forward(model, batch, temperature, tokens, rows, monkeypatch):
    monkeypatch.setattr(trainer, "SCORE_CHUNK", tokens)
    monkeypatch.setattr(trainer, "SCORED_TOGETHER", rows)
    got = completion_logps(causal_lm(model), *tensors(batch), temperature)
    expected = plain_logps(model, batch, temperature)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    got, expected = gradients(model, got[0]), gradients(model, expected[0])
    assert ("lora" in " ".join(expected)) == (model is not causal_lm(model))
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_in_bfloat16_scores_are_as_exact_as_those_of_a_plain_forward():
    rounded, batch = random_model().to(torch.bfloat16), BATCHES["groups of two, common beginning"]
    with torch.no_grad():
        plain, got = plain_logps(rounded, batch, 1.0)[0], completion_logps(rounded, *tensors(batch))[0]
        exact = plain_logps(rounded.float(), batch, 1.0)[0]
    assert 0 < (got - exact).square().mean() < 1.5 * (plain - exact).square().mean()


@pytest.mark.parametrize("masked", [[1], [0, 1, 2, 3, 4, 5]], ids=["a row", "every row"])
def test_masked_completions_score_zero(model, masked):
    batch = BATCHES["groups of two, common beginning"]
    prompt_ids, prompt_mask, ids, mask = tensors(batch)
    mask[masked] = 0
    with torch.no_grad():
        logps, entropies = completion_logps(causal_lm(model), prompt_ids, prompt_mask, ids, mask)
        expected = plain_logps(model, batch, 1.0)[0]
    expected[masked] = 0
    torch.testing.assert_close(logps, expected, atol=1e-4, rtol=0)
    assert entropies[masked].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"target_modules": ["q_proj", "up_proj"]}, id="plain"),
        pytest.param({"target_modules": ["q_proj"], "use_dora": True}, id="DoRA"),
        pytest.param({"target_modules": ["q_proj", "embed_tokens"]}, id="embedding"),
    ],
)
def test_adapters_of_any_kind_sample_the_policy_that_peft_computes_and_leave_no_trace(dtype, options):
    policy = adapted(random_model().to(dtype), **options)
    ids, before = torch.tensor([[5, 6, 7, 8]]), {name: p.clone() for name, p in policy.state_dict().items()}
    with torch.no_grad():
        expected = policy(ids).logits
        with pytest.raises(RuntimeError, match="stop here"), sampling.quick_adapters(policy):
            got = causal_lm(policy)(ids).logits
            raise RuntimeError("stop here")
        assert torch.equal(policy(ids).logits, expected)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, atol=(1e-4 if dtype == torch.float32 else 0.05) * scale, rtol=0)
    assert all(torch.equal(before[name], p) for name, p in policy.state_dict().items())
    assert not any("forward" in m.__dict__ for m in policy.modules())


def generate(prompt_ids, num_generations=1):
    """SharedPromptTrainer's sampling, greedy, on a random model."""
    tokenizer = SimpleNamespace(eos_token_id=1, pad_token_id=0)
    policy = adapted(random_model(end=1), target_modules=list(ATTENTION))
    trainer = SimpleNamespace(model=policy, max_completion_length=5, _tokenizer=tokenizer, temperature=0)
    return SharedPromptTrainer._generate_single_turn(trainer, prompt_ids, None, {}, num_generations)[0]


@pytest.mark.parametrize(
    ("prompts", "size"),
    [
        pytest.param([[5, 6]] * 2 + [[7]] * 2, 2, id="groups"),
        pytest.param([[5, 6], [7], [8, 9, 10]], 1, id="groups of one"),
        pytest.param([[5, 6]] * 4 + [[7]] * 2, 2, id="a question that is twice in the data set"),
    ],
)
def test_every_prompt_of_a_batch_gets_its_completion(prompts, size):
    assert generate(prompts, size) == [generate([prompt])[0] for prompt in prompts]


def test_prompts_that_are_no_groups_are_refused():
    with pytest.raises(ValueError, match="not groups of 2"):
        generate([[5, 6], [7]], 2)


def train_on(fixed, shared_prompts, folder, skip_tied=False, **overrides):
    """Three steps on completions that are given, so that only scoring and the update can differ."""
    how = {"steps": 3, "shared_prompts": shared_prompts, "skip_tied": skip_tied}
    profile = TINY.with_(batch=8, num_generations=4, max_completion_length=40, **how)
    model, tokenizer = models.load_policy(profile)
    questions = data.load_task(profile, "train", 16)
    # Plain gradient descent: Adam would blow rounding up to whole steps where a gradient is almost zero.
    overrides = {"optim": "sgd", "learning_rate": 0.5, "save_strategy": "no"} | overrides
    run = training.make_trainer(profile, model, tokenizer, questions, folder, **overrides)
    assert isinstance(run, SharedPromptTrainer) == shared_prompts
    batches, scored, score = iter(fixed), [], run._generate_and_score_completions
    run._generate_single_turn = lambda *args, **kwargs: (next(batches), None)
    run._generate_and_score_completions = lambda inputs: scored.append(score(inputs)) or scored[-1]
    training.train(run)
    weights = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
    return records.history(run), torch.stack([batch["advantages"] for batch in scored]), weights


@pytest.fixture(scope="module")
def fixed_completions():
    """Three batches sampled by the tiny policy, with ends, and some cut off."""
    model, tokenizer = models.load_policy(TINY)
    ids = prompt_ids(tokenizer, data.load_task(TINY, "train", 6)["prompt"])
    torch.manual_seed(0)
    rows = sampling.sample_policy(model, tokenizer, ids, 24, 4, 1.0)
    assert any(row[-1] != tokenizer.eos_token_id for row in rows)
    return [rows[:8], rows[8:16], rows[16:]]


@pytest.mark.trains
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"beta": 0.1, "loss_type": "grpo"},
        {"use_adaptive_entropy": True, "entropy_coef": 0.1, "entropy_target": 10.0},
    ],
    ids=["dapo", "grpo with a KL penalty", "adaptive entropy bonus"],
)
def test_rewards_advantages_and_updates_are_trls(overrides, fixed_completions, tmp_path):
    history, advantages, weights = train_on(fixed_completions, True, tmp_path / "a", **overrides)
    trl_history, trl_advantages, trl_weights = train_on(fixed_completions, False, tmp_path / "b", **overrides)
    assert advantages.abs().max() > 0
    assert torch.equal(advantages, trl_advantages)
    assert list(history["reward"]) == list(trl_history["reward"])
    for column in ["loss", "grad_norm", "entropy", *(["kl"] if "beta" in overrides else [])]:
        assert history[column].tolist() == pytest.approx(trl_history[column].tolist(), rel=1e-3, abs=1e-5), column
    moved = [w for name, w in weights.items() if "lora_B" in name]
    assert max(w.abs().max() for w in moved) > 1e-3  # they start at zero
    for name, expected in trl_weights.items():
        torch.testing.assert_close(weights[name], expected, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.trains
@pytest.mark.parametrize(("overrides", "scored"), [({}, 4), ({"loss_type": "grpo"}, 8), ({"beta": 0.1}, 8)])
def test_tied_groups_are_left_out_where_that_changes_no_gradient(overrides, scored, fixed_completions, tmp_path):
    half_tied = [[*rows[:4], *4 * rows[4:5]] for rows in fixed_completions]
    _, all_of_them, expected = train_on(half_tied, True, tmp_path / "a", **overrides)
    _, advantages, weights = train_on(half_tied, True, tmp_path / "b", skip_tied=True, **overrides)
    assert (all_of_them.shape, advantages.shape) == ((3, 8), (3, scored))
    assert (all_of_them == 0).sum() == 12 and torch.equal(advantages, all_of_them[:, :scored])
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-6, rtol=1e-4, msg=name)


def test_several_processes_are_refused(monkeypatch):
    two_processes = SimpleNamespace(num_processes=2)
    monkeypatch.setattr(trainer.GRPOTrainer, "__init__", lambda self: setattr(self, "accelerator", two_processes))
    with pytest.raises(ValueError, match="2 processes.*take TRL's GRPOTrainer"):
        SharedPromptTrainer()
