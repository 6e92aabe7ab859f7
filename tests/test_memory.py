"""The memory planner: counts equal to the libraries', phases held against a trace, CPU runs against measurements."""

import math
import weakref
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config, Qwen3Config
from trl.kernels import chunked_logprob
from trl.trainer import utils

from grpo_helpers import machine, models
from grpo_helpers.fast import sampling, trainer
from grpo_helpers.lessons import memory
from grpo_helpers.lessons.memory import QWEN25_15B, SMOLLM2_135M, T4_GB, ModelShape, plan
from grpo_helpers.profiles import ALL_LINEAR, ARTICLE, DATA, SMALL, T4, T4_FULL, TINY, get_profile

from .cells import definitions
from .tools.bench_memory import CONFIGURATIONS

LESSON = definitions("04_lora_and_memory", "knobs", "make_it_fit", "qwen_config")
SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"intermediate_size": 96, "vocab_size": 128}
CONFIGS = {
    "Qwen2.5-1.5B": LESSON.qwen_config(),
    "SmolLM2-135M": LlamaConfig(**dict(zip(SIZES, (576, 30, 9, 3, 1536, 49152))), tie_word_embeddings=True),  # noqa: B905
    "tiny": AutoConfig.from_pretrained(TINY.model),
    "qwen2, head of its own": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3, wide heads": Qwen3Config(**SIZES, head_dim=32),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_and_adapters_are_those_the_libraries_count(config):
    shape = ModelShape.from_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == model.num_parameters()
        policy = get_peft_model(model, models.lora_config(T4.with_(lora_rank=5, lora_targets=ALL_LINEAR)))
    assert shape.lora_parameters(5, ALL_LINEAR) == policy.get_nb_trainable_parameters()[0]


def test_shapes_and_tiles_are_the_public_ones_and_an_unknown_architecture_is_named():
    assert ModelShape.from_config(CONFIGS["Qwen2.5-1.5B"]) == QWEN25_15B
    assert ModelShape.from_config(CONFIGS["SmolLM2-135M"]) == SMOLLM2_135M
    assert QWEN25_15B.parameters == 1_543_714_304  # the model card's "1.54B"
    assert memory.TRL_POSITIONS == chunked_logprob.TOKEN_CHUNK_SIZE and memory.SCORE_CHUNK == trainer.SCORE_CHUNK
    assert memory.TRL_VOCABULARY == utils._CHUNKED_LOGPROB_CHUNK_SIZE
    with pytest.raises(ValueError, match="trainable='Full'"):
        plan(T4, QWEN25_15B, trainable="Full")
    with pytest.raises(ValueError, match="'gpt2'.*llama"):
        ModelShape.from_config(AutoConfig.for_model("gpt2"))


def needed_gb(profile):
    """GB that a profile needs on a GPU."""
    return plan(profile, {T4.model: QWEN25_15B, SMALL.model: SMOLLM2_135M}[profile.model]).peak_gb


class Living(TorchDispatchMode):
    """Sees every operation inside a `with` block; bytes of tensors alive are in `now`, the most so far in `peak`."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def remove(self, key):
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for storage in [x.untyped_storage() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]:
            if id(storage) not in self.sizes:
                self.sizes[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.remove, id(storage))
        self.peak = max(self.peak, self.now)
        return result


def meta_policy(profile, layers):
    """Qwen2.5-1.5B with so many layers, the profile's adapters and no weights at all."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LESSON.qwen_config(layers), dtype=getattr(torch, profile.dtype))
        policy = get_peft_model(model, models.lora_config(profile)).train()
    if profile.checkpointing:
        model.activation_checkpointing_enable()
        model.enable_input_require_grads()
    return policy


def make_fake(policy):
    """Give the policy fake weights; a matrix that is used twice, embedding and head, stays one."""
    fakes = {}
    for module in policy.modules():
        for name, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if old not in fakes:
                new = torch.empty(old.shape, dtype=old.dtype)
                trained = isinstance(old, torch.nn.Parameter)
                fakes[old] = torch.nn.Parameter(new, old.requires_grad) if trained else new
            setattr(module, name, fakes[old])


def update(policy, profile):
    """Log-probabilities and backward pass of one batch of the longest completions, as TRL computes them on a GPU."""
    model, new = policy.get_base_model(), profile.max_completion_length
    ids = torch.zeros(profile.batch, profile.max_prompt_length + new, dtype=torch.long)
    with torch.autocast("cpu", dtype=model.dtype):
        hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
        scored = hidden[:, -new - 1 : -1].flatten(0, 1)
        head, tokens = model.lm_head.weight, ids[:, -new:].flatten()
        rest = (None, tokens, 1.0, memory.TRL_VOCABULARY, None, 1.0, ("log_probs",))
        logps = chunked_logprob.ChunkedLogProbFunction.apply(scored, head, *rest)[0]
    logps.sum().backward()


def fill(cache, rows, new):
    """The cache as it is `new` tokens later."""
    for layer in cache.layers:
        layer.update(*(x.new_empty(rows, x.shape[1], new, x.shape[3]) for x in (layer.keys, layer.values)))


@torch.no_grad()
def generate(policy, profile):
    """The first and the last token of TRL's sampling."""
    rows, new = profile.batch * profile.accumulation, profile.max_completion_length
    ids, cache = torch.zeros(rows, profile.max_prompt_length, dtype=torch.long), DynamicCache(config=policy.config)
    policy(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, logits_to_keep=1)
    fill(cache, rows, new - 1)
    mask = torch.ones(rows, profile.max_prompt_length + new, dtype=torch.long)
    output = policy(input_ids=ids[:, :1], attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    scores = output.logits[:, -1].to(torch.float32, copy=True) / profile.temperature
    torch.multinomial(scores.softmax(dim=-1), 1)


@torch.no_grad()
def sample(policy, profile, rows, group):
    """The first token of `fast.sampling`, and the last, where a quarter of the rows is let go."""
    model, length, new = policy.get_base_model(), profile.max_prompt_length, profile.max_completion_length
    prompts = [[i] + [0] * (length - 1) for i in range(rows // group)]
    with sampling.quick_adapters(policy):
        beginning, cache, _, _ = sampling.prefill(model, prompts, 0)
        cache.batch_repeat_interleave(group)
        sampling.reserve(cache, new)
        fill(cache, rows, new - 1)
        kept = torch.arange(3 * rows // 4)
        sampling.reserve(cache, 1, kept)
        token, mask = torch.zeros(len(kept), 1, dtype=torch.long), torch.ones(len(kept), length + new)
        hidden = sampling.go_on(model, beginning, cache, token, mask, token)[:, -1]
        sampling.next_tokens(model.lm_head(hidden), 1.0)


# TRL's kernels for GPUs work inside a tile that exists already, so here they do nothing.
IN_PLACE = dict.fromkeys(("_forward_tile", "_backward_tile", "_addmm_fp32"), lambda *args, **kwargs: None)


def traced(profile, layers, then_sampled=True):
    """Phase → GB at its peak, of the libraries' own code on fake tensors, which have a shape and no data."""
    policy, peaks = meta_policy(profile, layers), {}
    with FakeTensorMode(), Living() as living, patch.multiple(chunked_logprob, **IN_PLACE):

        def phase(name, function, *args):
            living.peak = living.now
            function(*args)
            peaks[name] = living.peak / 1e9

        make_fake(policy)
        optimizer = torch.optim.AdamW(p for p in policy.parameters() if p.requires_grad)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        phase("optimizer step", optimizer.step)
        phase("update", update, policy, profile)
        if not then_sampled:
            return peaks
        optimizer.zero_grad()
        policy.eval()  # as this package's sampler does; TRL switches checkpointing off
        if profile.shared_prompts:
            rows = profile.batch * profile.accumulation
            phase("generation", sample, policy, profile, rows, profile.num_generations)
        else:
            phase("generation", generate, policy, profile)
        phase("evaluation", sample, policy, profile, profile.eval_batch, 1)
    return peaks


@pytest.mark.parametrize("profile", [T4, ARTICLE], ids=lambda profile: profile.name)
def test_every_phase_of_a_gpu_profile_is_planned_as_traced(profile):
    """Within 20 % of what is needed beyond the weights; with fewer layers, as all are alike."""
    shape = replace(QWEN25_15B, layers=4)
    weights = 2 * shape.parameters / 1e9
    table = plan(profile, shape).table.drop("overhead")
    for phase, gb in traced(profile, shape.layers).items():
        assert table[phase].sum() - weights == pytest.approx(gb - weights, rel=0.2), phase


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("batch", [4, 8])
def test_an_update_is_planned_as_traced(batch, checkpointing):
    """With all layers: what two and three need tells what 28 do."""
    profile = T4.with_(batch=batch, accumulation=32 // batch, checkpointing=checkpointing, shared_prompts=False)
    two, three = (traced(profile, layers, then_sampled=False)["update"] for layers in (2, 3))
    table = plan(profile, QWEN25_15B).table["update"].drop("overhead")
    kept = table[["weights", "adapters", "optimizer"]].sum()
    assert table.sum() - kept == pytest.approx(two + (QWEN25_15B.layers - 2) * (three - two) - kept, rel=0.2)


def test_the_trace_counts_what_is_alive_and_no_more():
    with FakeTensorMode(), Living() as living:
        a = torch.zeros(1000)
        b = (a + 1) * 2  # a + 1 lives until the product is there
        assert (living.now, living.peak) == (8000, 12000)
        view = b[:10]
        del b
        assert living.now == 8000
        del view
        assert living.now == 4000


def test_a_plan_is_a_table_of_components_by_phases():
    made = plan(T4, QWEN25_15B)
    assert tuple(made.table.index) == memory.COMPONENTS and tuple(made.table.columns) == memory.PHASES
    assert made.peak_gb == made.totals[made.peak_phase] == needed_gb(T4)
    trained = QWEN25_15B.lora_parameters(T4.lora_rank, T4.lora_targets)
    assert made.table.loc["optimizer", "optimizer step"] == pytest.approx(8 * trained / 1e9)
    assert made.table.loc["gradients", "generation"] == 0
    full, with_reference = (
        plan(T4.with_(beta=beta), QWEN25_15B, trainable="full").table.loc["weights", "generation"] for beta in (0, 0.04)
    )
    assert with_reference == 2 * full == pytest.approx(8 * 1.543714304)


def test_what_a_card_of_each_size_can_run():
    assert max(map(needed_gb, (T4, T4_FULL, ARTICLE))) < T4_GB
    assert [gb for _, gb in machine.NEEDED_GB] == [math.ceil(100 * needed_gb(p)) / 100 for p, _ in machine.NEEDED_GB]
    assert needed_gb(T4.with_(eval_batch=12)) < needed_gb(T4) and needed_gb(T4.with_(eval_batch=12, batch=4)) < 8
    assert needed_gb(machine.NEEDED_GB[-1][0]) < 4 < needed_gb(T4.with_(batch=4, accumulation=2, eval_batch=4))


MORE = dict.fromkeys(("batch", "accumulation", "max_completion_length", "max_prompt_length", "lora_rank", "eval_batch"))
MORE |= {"lora_targets": ALL_LINEAR, "checkpointing": False}


@pytest.mark.parametrize("field", MORE)
def test_more_never_needs_less(field):
    for least in (p.with_(lora_targets=ARTICLE.lora_targets) for p in (ARTICLE, T4, SMALL.with_(checkpointing=True))):
        more = 2 * getattr(least, field) if MORE[field] is None else MORE[field]
        for trainable in ("lora", "full"):
            low, high = (plan(p, QWEN25_15B, trainable=trainable).totals for p in (least, least.with_(**{field: more})))
            assert (high >= low).all()
            assert trainable == "full" or high.sum() > low.sum()


def test_the_knob_for_the_phase_that_is_too_large_is_turned():
    for profile, trainable, phase, knob in (
        (T4, "full", "update", "LoRA"),
        (T4.with_(checkpointing=False, shared_prompts=False), "lora", "update", "checkpointing"),
        (T4.with_(accumulation=64), "lora", "generation", "accumulation"),
        (T4.with_(eval_batch=300), "lora", "evaluation", "eval_batch"),
    ):
        made = plan(profile, QWEN25_15B, trainable=trainable)
        assert made.peak_phase == phase and made.peak_gb > T4_GB
        turned, after = LESSON.make_it_fit(profile, trainable)
        assert after <= T4_GB and knob in turned[0]
    assert LESSON.make_it_fit(T4, budget=2.0)[1] > 3  # the weights alone
    assert LESSON.make_it_fit(T4) == ([], needed_gb(T4))


def test_plans_for_a_cpu_are_within_a_fifth_of_what_was_measured():
    shapes = {"tiny": ModelShape.from_config(CONFIGS["tiny"]), "small": SMOLLM2_135M}
    recorded = pd.read_csv(DATA / "runs" / "memory-cpu" / "memory.csv").set_index("configuration")
    assert set(recorded.index) == set(CONFIGURATIONS) and not recorded["fitted"].all()
    for name, (profile, changes, what, _) in CONFIGURATIONS.items():
        lengths = recorded.loc[name, ["prompt_tokens", "shared_prefix"]].astype(int).to_dict()
        totals = plan(get_profile(profile).with_(**changes), shapes[profile], on_gpu=False, **lengths).totals
        planned = totals["evaluation"] if what == "evaluation" else totals.drop("evaluation").max()
        assert planned == pytest.approx(recorded.at[name, "measured_gb"], rel=0.2), name
