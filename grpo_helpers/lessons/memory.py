"""What a GRPO configuration needs in memory, before it is run.

A plan is a table: components (weights, adapters, gradients, optimizer,
activations, KV cache, logits, overhead) by phases (generation, update,
optimizer, evaluation). Each number is a plain formula over the model's shape
and the profile, for the longest prompts and completions the profile allows; the
peak is the largest column. 1 GB is 10^9 bytes.

On a CPU, where `tests/tools/bench_memory.py` compares it with measurements, the
"memory" is what the process has resident beyond its imports. For a T4 it is an
estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..profiles import Profile

GB = 1e9
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# On T4s torch reports 14.56 GiB (Zheng-Chong/CatVTON#133) to 14.75 (NUS-HPC-AI-Lab/VideoSys#192): 15.6 to 15.8 GB.
# A little of that should stay free.
T4_GB = 15.0

FLOAT32 = 4
SCORE_CHUNK = 128  # fast.trainer: positions whose logits are in memory at a time
TRL_POSITIONS, TRL_VOCABULARY = 4096, 32768  # trl.kernels.chunked_logprob: the tile that TRL scores at a time

# What no formula gives: the libraries' own memory, and freed blocks too scattered to be used again, as a share of what
# comes in many blocks of many sizes. CPU: chosen by the rows that data/runs/memory-cpu marks as fitted; with every
# tensor in a mapping of its own (MALLOC_MMAP_THRESHOLD_=65536) the scattered third of the activations is gone.
# GPU: an estimate, CUDA's context and kernels included.
CPU_OVERHEAD_GB, CPU_SLACK = 0.1, 1 / 3
GPU_OVERHEAD_GB, GPU_SLACK = 0.6, 0.1

COMPONENTS = ("weights", "adapters", "gradients", "optimizer", "activations", "KV cache", "logits", "overhead")
Parts = dict[str, float]  # component → bytes
PHASES = ("generation", "update", "optimizer step", "evaluation")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder as in Llama, Qwen2 and Qwen3: RMSNorm, grouped-query attention, gated MLP.

    `head_dim` 0 means hidden / heads; `biases` counts the parameters of one layer that are no matrix and no layer
    norm: biases of the projections, norms of queries and keys.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = True
    head_dim: int = 0
    biases: int = 0

    def __post_init__(self) -> None:
        for field in ("hidden", "layers", "heads", "kv_heads", "intermediate", "vocab"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} in {self}: at least 1 is needed")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} cannot share kv_heads={self.kv_heads} evenly; take a divisor")
        if not self.head_dim and self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is no multiple of heads={self.heads}; give head_dim")
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden // self.heads)

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """The shape in a configuration of transformers, such as `model.config`.

        Raises:
            ValueError: an architecture whose parameters this class cannot count.
        """
        kind = config.model_type
        if kind not in ("llama", "qwen2", "qwen3"):
            raise ValueError(f"model_type {kind!r} is not known here; the planner counts llama, qwen2 and qwen3 models")
        hidden, inner = config.hidden_size, config.intermediate_size
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        bias = getattr(config, "attention_bias", False)
        biases = (kind == "qwen2" or bias) * (heads + 2 * kv_heads) * head_dim  # of q, k and v
        biases += (kind != "qwen2" and bias) * hidden  # of o
        biases += getattr(config, "mlp_bias", False) * (2 * inner + hidden)
        biases += (kind == "qwen3") * 2 * head_dim  # norms of queries and keys
        tied = config.tie_word_embeddings
        return cls(hidden, config.num_hidden_layers, heads, kv_heads, inner, config.vocab_size, tied, head_dim, biases)

    @property
    def attention(self) -> int:
        """Width of all queries together; also of the attention's output."""
        return self.heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer, as (inputs, outputs)."""
        hidden, queries, keys, inner = self.hidden, self.attention, self.kv_heads * self.head_dim, self.intermediate
        attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        mlp = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        return attention | {"o_proj": (queries, hidden)} | mlp

    @property
    def parameters(self) -> int:
        """All parameters; an embedding that is also the head counts once."""
        layer = sum(i * o for i, o in self.linears.values()) + 2 * self.hidden + self.biases
        embedding = self.vocab * self.hidden
        return self.layers * layer + embedding * (1 if self.tied else 2) + self.hidden

    def target_sizes(self, targets: Sequence[str]) -> list[tuple[int, int]]:
        """(inputs, outputs) of each target matrix of one layer; a ValueError names a target that is none."""
        for target in targets:
            if target not in self.linears:
                raise ValueError(f"LoRA target {target!r} is no matrix of this model; it has {', '.join(self.linears)}")
        return [self.linears[t] for t in targets]

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """A is (rank, inputs) and B is (outputs, rank), for each target of each layer (arXiv 2106.09685, §4.1)."""
        if rank < 1:
            raise ValueError(f"rank={rank}: a LoRA rank is at least 1")
        return self.layers * sum(rank * (i + o) for i, o in self.target_sizes(targets))

    def kv_bytes(self, dtype: str = "float16") -> int:
        """Bytes of KV cache for one token: a key and a value for each KV head of each layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_of(dtype)


# As in the public config.json of Qwen/Qwen2.5-1.5B; layers, heads and the tied head also in arXiv 2412.15115, table 1.
QWEN25_15B = ModelShape(1536, 28, 12, 2, 8960, 151936, tied=True, biases=2048)


def bytes_of(dtype: str) -> int:
    """Bytes of one number; a ValueError lists the precisions known here."""
    if dtype not in BYTES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(BYTES)}")
    return BYTES[dtype]


@dataclass(frozen=True)
class Plan:
    """What `plan` found: `table` has a row for each component, a column for each phase, in GB."""

    profile: Profile
    shape: ModelShape
    table: pd.DataFrame
    budget_gb: float
    options: dict[str, Any]

    @property
    def totals(self) -> pd.Series:
        """GB needed in each phase."""
        return self.table.sum()

    @property
    def peak_gb(self) -> float:
        return float(self.totals.max())

    @property
    def peak_phase(self) -> str:
        return str(self.totals.idxmax())

    @property
    def fits(self) -> bool:
        return self.peak_gb <= self.budget_gb

    def __str__(self) -> str:
        verdict = "fits into" if self.fits else "does not fit into"
        return f"peak {self.peak_gb:.1f} GB, in the phase {self.peak_phase!r}: {verdict} {self.budget_gb:.3g} GB"


def plan(
    profile: Profile,
    shape: ModelShape,
    *,
    budget_gb: float = T4_GB,
    trainable: str = "lora",
    on_gpu: bool | None = None,
    prompt_tokens: int | None = None,
    shared_prefix: int = 0,
) -> Plan:
    """The memory of training `profile` with a model of `shape`, phase by phase.

    Args:
        trainable: "lora", or "full" for all weights (then in float32, as a gradient scaler needs).
        on_gpu: None takes the CPU for profiles that share prompts, a GPU for the others.
        prompt_tokens: the longest prompt; None takes the profile's limit.
        shared_prefix: tokens that all prompts begin with; they are run once where prompts are shared.

    Raises:
        ValueError: names the value that makes no sense.
    """
    on_gpu = not profile.shared_prompts if on_gpu is None else on_gpu
    prompt = profile.max_prompt_length if prompt_tokens is None else prompt_tokens
    full, half = trainable == "full", bytes_of(profile.dtype)  # half: bytes of a number while computing; 2 is autocast
    if trainable not in ("lora", "full"):
        raise ValueError(f"trainable={trainable!r}: either 'lora' or 'full'")
    if not 0 <= shared_prefix < prompt or profile.max_completion_length < 1:
        lengths = f"shared_prefix={shared_prefix}, prompt_tokens={prompt}, {profile.max_completion_length=}"
        raise ValueError(f"{lengths}: prompts and completions have tokens, and a prompt is longer than what it shares")
    if not budget_gb > 0:
        raise ValueError(f"budget_gb={budget_gb}: a budget is above 0")
    lora = shape.lora_parameters(profile.lora_rank, profile.lora_targets)  # raises for a rank or target that is none
    options = {"trainable": trainable, "on_gpu": on_gpu, "prompt_tokens": prompt_tokens, "shared_prefix": shared_prefix}

    sized = profile.with_(max_prompt_length=prompt)
    alone = sized.with_(shared_prompts=True)
    sampled = profile.batch * profile.accumulation  # TRL samples all completions of a step at once
    phases = {
        "generation": _generation(sized, shape, shared_prefix, sampled, profile.num_generations, full),
        "update": _update(sized, shape, shared_prefix, full, on_gpu),
        "optimizer step": {},
        "evaluation": _generation(alone, shape, shared_prefix, profile.eval_batch, 1, full),
    }
    table = pd.DataFrame(phases, index=list(COMPONENTS), columns=list(PHASES), dtype=float).fillna(0.0)
    # Trained weights are float32: a gradient scaler refuses float16 ones, and small steps would round away.
    table.loc["weights"] = shape.parameters * (FLOAT32 if full else half)
    if full:  # autocast keeps a copy of trained weights; with LoRA the reference is the policy, adapters off
        table.loc["weights", "update"] += (half < FLOAT32) * shape.parameters * half
        table.loc["weights"] += bool(profile.beta) * shape.parameters * FLOAT32
    trained = shape.parameters if full else lora
    table.loc["adapters"] += 0 if full else trained * FLOAT32
    table.loc["optimizer"] = 2 * trained * FLOAT32  # Adam: running means of the gradient and of its square
    table.loc["gradients", ["update", "optimizer step"]] = trained * FLOAT32
    # On a GPU transformers.generate lets the KV cache grow by copying, which scatters it, too.
    scattered = ["activations", "KV cache"] if on_gpu else ["activations"]
    fixed, slack = (GPU_OVERHEAD_GB, GPU_SLACK) if on_gpu else (CPU_OVERHEAD_GB, CPU_SLACK)
    table.loc["overhead"] = fixed * GB + slack * table.loc[scattered].sum()
    return Plan(profile, shape, table / GB, budget_gb, options)


def _generation(profile: Profile, shape: ModelShape, prefix: int, rows: int, group: int, full: bool) -> Parts:
    """Sampling `rows` completions, `group` of each prompt: caches, the prefill's working memory, one token's logits."""
    dtype = "float32" if full else profile.dtype  # no autocast here
    half, prompt, merged = bytes_of(dtype), profile.max_prompt_length, 0
    own = prompt + profile.max_completion_length
    if profile.shared_prompts:
        # fast.sampling keeps the common beginning once, and lets finished rows go when a quarter has: the cache
        # with all rows, a copy with the rows that go on, and their new, roomier cache exist at once, in float32.
        caches, kept, own, asked = 1 + 0.75 + 0.75, "float32", own - prefix, -(-rows // group)
        prefilled, scores = max(prefix, asked * (prompt - prefix)), asked * (prompt - prefix) * prompt
        if not full:  # the adapters are merged into copies of the weights they belong to
            merged = sum(i * o for i, o in shape.target_sizes(profile.lora_targets)) * shape.layers * half
    else:
        # transformers.generate: one cache that grows by copying, a layer at a time; attention without stored scores.
        caches, kept, prefilled, scores = 1 + 1 / shape.layers, dtype, rows * prompt, 0
    return {
        "adapters": merged,
        "KV cache": rows * own * shape.kv_bytes(kept) * caches,
        # Without gradients a layer's results live until the next layer: MLP, and norms in float32; or scores, the two
        # halves they are made of, and probabilities.
        "activations": max(
            prefilled * (3 * shape.intermediate * half + 3 * shape.hidden * FLOAT32),
            3 * scores * shape.heads * FLOAT32,
        ),
        # Logits of one position of each row, their float32 copy, probabilities, and a running sum or sort of them.
        "logits": rows * shape.vocab * (half + 3 * FLOAT32),
    }


def _update(profile: Profile, shape: ModelShape, prefix: int, full: bool, on_gpu: bool) -> Parts:
    """Log-probabilities, loss and backward of one micro-batch."""
    half, rows, prompt = bytes_of(profile.dtype), profile.batch, profile.max_prompt_length
    new, total = rows * profile.max_completion_length, rows * (prompt + profile.max_completion_length)
    passes, cache, attention, scores = [(total, total)], 0, 0, 0  # passes: (tokens, keys) of each
    if profile.shared_prompts:  # the common beginning once, the rest of each prompt once, completions
        prompts, own = min(rows, profile.prompts_per_step), prompt - prefix
        asked = [(prompts, own, own), (rows, profile.max_completion_length, own + profile.max_completion_length)]
        passes = [(prefix, prefix)] + [(n * new_, 0) for n, new_, _ in asked]
        scores = new * shape.heads * (prompt + profile.max_completion_length) * FLOAT32
        attention = sum(common_attention(shape, n, new_, keys, prefix, half) for n, new_, keys in asked)
        cache = rows * (total // rows - prefix) * shape.kv_bytes(profile.dtype)  # alive until the log-probs are there
    saved = attention + sum(layer_activations(profile, shape, *p, full) for p in passes)
    tokens, keys = max(passes)
    inputs = tokens * shape.hidden * (FLOAT32 if full else half)
    # With checkpointing only each layer's input is kept; one layer at a time is computed again (arXiv 1604.06174).
    activations = saved + shape.layers * inputs if profile.checkpointing and on_gpu else shape.layers * saved
    # Gradients of one layer's results while they are passed on.
    activations += tokens * (4 * shape.intermediate * half + 3 * shape.hidden * FLOAT32)
    activations += 2 * keys * shape.attention * half + 2 * scores
    # Log-probabilities from hidden states: never all logits at once, neither here nor in TRL 1.16.
    if profile.shared_prompts:
        # fast.trainer.TokenLogps: logits as they come, then they and probabilities in float32; the gradient.
        logits = min(new, SCORE_CHUNK) * shape.vocab * (half + 2 * FLOAT32) + 3 * new * shape.hidden * half
    else:
        # Without Triton every position is scored, the prompt's too, by torch operations on whole tiles in float32; of
        # a tile wider than the vocabulary the rest is never touched, and so never resident.
        scored, width = (new, TRL_VOCABULARY) if on_gpu else (total, min(TRL_VOCABULARY, shape.vocab))
        tile = min(scored, TRL_POSITIONS) * width * (half if on_gpu else half + 7 * FLOAT32)
        logits = tile + scored * shape.hidden * (FLOAT32 + 2 * half)  # hidden states and their gradient
    return {"KV cache": cache, "activations": activations, "logits": logits}


def layer_activations(profile: Profile, shape: ModelShape, tokens: int, keys: int, full: bool = False) -> int:
    """Bytes that autograd keeps of one layer for its backward pass.

    Args:
        tokens: positions that run through the layer, all rows together.
        keys: positions they attend to, all rows together.
        full: all weights are trained, not LoRA adapters.
    """
    half, targets = bytes_of(profile.dtype), list(shape.linears if full else profile.lora_targets)
    # PEFT casts a target's input to the adapter's float32 and autocast back: a copy for each target. In float32 nothing
    # is cast: q, k and v keep the same tensor, o keeps the attention's output (counted below).
    together = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    kept = targets if half < FLOAT32 else [group[0] for group in together if set(group) & set(targets)]
    inputs = sum(i for i, _ in shape.target_sizes(kept))
    between = 0 if full else len(targets) * profile.lora_rank * FLOAT32  # A·x of each adapter
    norms = 2 * shape.hidden * FLOAT32 * (2 if full else 1)  # computed in float32; trained ones keep the result too
    attention = 2 * shape.attention * half + shape.heads * FLOAT32  # queries, output, log-sum-exp
    mlp = 3 * shape.intermediate * half  # gate, silu(gate), up
    # Keys and values are repeated for every query head wherever a padding mask is given.
    return tokens * (norms + inputs * half + between + attention + mlp) + keys * 2 * shape.attention * half


def common_attention(shape: ModelShape, rows: int, tokens: int, own: int, prefix: int, half: int) -> int:
    """Bytes that autograd keeps of `sampling.attend` in one layer: float32 throughout, scores included.

    Args:
        rows, tokens: rows, and positions of each that run through the layer.
        own: keys of each row's own; `prefix` more are common to all.
        half: bytes of a number outside attention.
    """
    queries = 2 * tokens * shape.attention  # for common keys they are laid out anew
    probabilities = shape.heads * tokens * (prefix + own)
    cast = (half < FLOAT32) * 2 * own * shape.kv_heads * shape.head_dim  # of keys and values
    return rows * (queries + probabilities + cast) * FLOAT32


def _knobs(old: Plan) -> Iterator[tuple[str, str, Plan]]:
    """Changes that lower the need, the cheap ones first: knob, what it costs, the plan it leads to."""
    p, gpu = old.profile, old.options["on_gpu"]
    batch, twice, fewer, new = p.batch // 2, 2 * p.accumulation, p.accumulation // 2, p.max_completion_length // 2
    even = p.accumulation % 2 == 0 and p.prompts_per_step % 2 == 0
    for possible, name, cost, changes in (
        (old.options["trainable"] == "full", "train LoRA adapters, not all weights", "less capacity", {}),
        (gpu and p.dtype == "float32", "float16 weights", "needs loss scaling", {"dtype": "float16"}),
        (gpu and not p.checkpointing, "activation checkpointing on", "one more forward", {"checkpointing": True}),
        (p.batch % 2 == 0, f"batch {batch} × accumulation {twice}", "smaller products",
         {"batch": batch, "accumulation": twice}),
        (p.eval_batch > 1, f"eval_batch {p.eval_batch // 2}", "slower evaluation", {"eval_batch": p.eval_batch // 2}),
        (even, f"accumulation {fewer}", "fewer questions a step", {"accumulation": fewer}),
        (new > 0, f"max_completion_length {new}", "more answers cut off", {"max_completion_length": new}),
    ):  # fmt: skip
        if possible:
            options = old.options if changes else old.options | {"trainable": "lora"}
            yield name, cost, plan(p.with_(**changes), old.shape, budget_gb=old.budget_gb, **options)


def knobs(old: Plan) -> pd.DataFrame:
    """Each knob turned alone: the peak it leads to, in GB, whether that fits, and what it costs."""
    rows = [(name, new.peak_gb, new.fits, cost) for name, cost, new in _knobs(old)]
    return pd.DataFrame(rows, columns=["knob", "peak GB", "fits", "costs"]).set_index("knob")


def make_it_fit(old: Plan) -> tuple[list[str], Plan]:
    """Turn knobs, the cheapest that helps first, until the plan fits or no knob is left.

    Returns:
        The knobs turned, in order, and the plan they lead to; look at its `fits`.
    """
    turned: list[str] = []
    while not old.fits and (better := [knob for knob in _knobs(old) if knob[2].peak_gb < 0.99 * old.peak_gb]):
        name, _, old = better[0]
        turned.append(name)
    return turned, old
