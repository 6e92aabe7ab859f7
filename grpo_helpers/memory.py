"""What a GRPO configuration needs in memory, before it is run.

A plan is a table: components (weights, adapters, gradients, optimizer,
activations, KV cache, logits, overhead) by phases (generation, update,
optimizer, evaluation). Each number is a plain formula over the model's shape
and the profile, for the longest prompts and completions the profile allows; the
peak is the largest column. 1 GB is 10^9 bytes.

On a CPU, where `tests/bench_memory.py` compares it with measurements, the
"memory" is what the process has resident beyond its imports. For a T4 it is an
estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from .profiles import Profile

if TYPE_CHECKING:  # the planner itself needs no model library
    from transformers import PretrainedConfig

GB = 1e9
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# On T4s torch reports 14.56 GiB (facebookresearch/tribev2#28) to 14.74 GiB (zai-org/CogVideo#741): 15.6 to 15.8 GB.
# A little of that should stay free.
T4_GB = 15.0

FLOAT32 = 4
SCORE_CHUNK = 512  # grpo_helpers.trainer: positions whose logits are in memory at a time
TRL_POSITIONS, TRL_VOCABULARY = 4096, 32768  # trl.kernels.chunked_logprob: the tile that TRL scores at a time

# What no formula gives: the libraries' own memory, and freed blocks too scattered to be used again, as a share of what
# comes in many blocks of many sizes. CPU: chosen by the rows that data/runs/memory-cpu marks as fitted; with every
# tensor in a mapping of its own (MALLOC_MMAP_THRESHOLD_=65536) the scattered third of the activations is gone.
# GPU: an estimate, CUDA's context and kernels included.
CPU_OVERHEAD_GB, CPU_SLACK = 0.1, 1 / 3
GPU_OVERHEAD_GB, GPU_SLACK = 0.6, 0.1

COMPONENTS = ("weights", "adapters", "gradients", "optimizer", "activations", "KV cache", "logits", "overhead")
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
        if not self.head_dim:
            if self.hidden % self.heads:
                raise ValueError(f"hidden={self.hidden} is no multiple of heads={self.heads}; give head_dim")
            object.__setattr__(self, "head_dim", self.hidden // self.heads)

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> ModelShape:
        """The shape in a transformers configuration.

        Raises:
            ValueError: an architecture whose parameters this class cannot count.
        """
        kind = config.model_type
        if kind not in ("llama", "qwen2", "qwen3"):
            raise ValueError(f"model_type {kind!r} is not known here; the planner counts llama, qwen2 and qwen3 models")
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        biases = 0
        if kind == "qwen2" or getattr(config, "attention_bias", False):
            biases += (heads + 2 * kv_heads) * head_dim
        if kind != "qwen2" and getattr(config, "attention_bias", False):
            biases += config.hidden_size
        if getattr(config, "mlp_bias", False):
            biases += 2 * config.intermediate_size + config.hidden_size
        if kind == "qwen3":
            biases += 2 * head_dim
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=kv_heads,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
            head_dim=head_dim,
            biases=biases,
        )

    @property
    def attention(self) -> int:
        """Width of all queries together; also of the attention's output."""
        return self.heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer, as (inputs, outputs)."""
        keys = self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, self.attention),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (self.attention, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

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
    new = profile.max_completion_length
    if trainable not in ("lora", "full"):
        raise ValueError(f"trainable={trainable!r}: either 'lora' or 'full'")
    if prompt < 1 or new < 1:
        raise ValueError(f"prompt_tokens={prompt}, max_completion_length={new}: both must be at least 1")
    if not 0 <= shared_prefix < prompt:
        raise ValueError(f"shared_prefix={shared_prefix} must be shorter than the prompt of {prompt} tokens")
    if not budget_gb > 0:
        raise ValueError(f"budget_gb={budget_gb}: a budget is above 0")
    shape.lora_parameters(profile.lora_rank, profile.lora_targets)  # raises for a rank or target that is none
    options = {"trainable": trainable, "on_gpu": on_gpu, "prompt_tokens": prompt_tokens, "shared_prefix": shared_prefix}
    table = _table(profile, shape, _Lengths(prompt, shared_prefix, new), trainable == "full", on_gpu)
    return Plan(profile, shape, table, budget_gb, options)


@dataclass(frozen=True)
class _Lengths:
    prompt: int
    prefix: int
    new: int

    @property
    def total(self) -> int:
        return self.prompt + self.new


def _table(profile: Profile, shape: ModelShape, length: _Lengths, full: bool, on_gpu: bool) -> pd.DataFrame:
    half = bytes_of(profile.dtype)  # bytes of a number while computing; 2 means autocast
    table = pd.DataFrame(0.0, index=list(COMPONENTS), columns=list(PHASES))
    # Trained weights are float32: a gradient scaler refuses float16 ones, and small steps would round away.
    table.loc["weights"] = shape.parameters * (FLOAT32 if full else half)
    if full and half < FLOAT32:
        table.loc["weights", "update"] += shape.parameters * half  # autocast keeps a copy of trained weights
    if full and profile.beta:
        table.loc["weights"] += shape.parameters * FLOAT32  # the reference; with LoRA it is the policy, adapters off
    trained = shape.parameters if full else shape.lora_parameters(profile.lora_rank, profile.lora_targets)
    if not full:
        table.loc["adapters"] = trained * FLOAT32
    table.loc["optimizer"] = 2 * trained * FLOAT32  # Adam: running means of the gradient and of its square
    table.loc["gradients", ["update", "optimizer step"]] = trained * FLOAT32

    sampled = profile.batch * profile.accumulation  # TRL samples all completions of a step at once
    table["generation"] += _generation(profile, shape, length, sampled, profile.num_generations, full)
    table["evaluation"] += _generation(profile.with_(shared_prompts=True), shape, length, profile.eval_batch, 1, full)
    table["update"] += _update(profile, shape, length, full, on_gpu)

    if on_gpu:  # transformers.generate lets the KV cache grow by copying, which scatters it, too
        table.loc["overhead"] = GPU_OVERHEAD_GB * GB + GPU_SLACK * table.loc[["activations", "KV cache"]].sum()
    else:
        table.loc["overhead"] = CPU_OVERHEAD_GB * GB + CPU_SLACK * table.loc["activations"]
    return table / GB


def _generation(profile: Profile, shape: ModelShape, length: _Lengths, rows: int, group: int, full: bool) -> pd.Series:
    """Sampling `rows` completions, `group` of each prompt: caches, the prefill's working memory, one token's logits."""
    dtype, parts = "float32" if full else profile.dtype, pd.Series(0.0, index=list(COMPONENTS))  # no autocast here
    half, per_token = bytes_of(dtype), shape.kv_bytes(dtype)
    if profile.shared_prompts:
        # grpo_helpers.sampling lets finished rows go when a quarter has: the cache with all rows, a copy with the
        # rows that go on, and their new, roomier cache exist at once.
        parts["KV cache"] = rows * length.total * per_token * (1 + 0.75 + 0.75)
        prefilled = length.prefix + -(-rows // group) * (length.prompt - length.prefix)
        if not full:  # the adapters are merged into copies of the weights they belong to
            parts["adapters"] = sum(i * o for i, o in shape.target_sizes(profile.lora_targets)) * shape.layers * half
    else:
        # transformers.generate: one cache that grows by copying, a layer at a time.
        parts["KV cache"] = rows * length.total * per_token * (1 + 1 / shape.layers)
        prefilled = rows * length.prompt
    # Without gradients a layer's results live until the next layer: MLP, and norms in float32.
    parts["activations"] = prefilled * (3 * shape.intermediate * half + 3 * shape.hidden * FLOAT32)
    # Logits of one position of each row, their float32 copy, probabilities, and a running sum or sort of them.
    parts["logits"] = rows * shape.vocab * (half + 3 * FLOAT32)
    return parts


def _update(profile: Profile, shape: ModelShape, length: _Lengths, full: bool, on_gpu: bool) -> pd.Series:
    """Log-probabilities, loss and backward of one micro-batch."""
    half, parts = bytes_of(profile.dtype), pd.Series(0.0, index=list(COMPONENTS))
    rows = profile.batch
    if profile.shared_prompts:
        prompts = min(rows, profile.prompts_per_step)
        # (tokens, keys) of each pass: common beginning once, rest of each prompt once, completions.
        passes = [
            (length.prefix, length.prefix),
            (prompts * (length.prompt - length.prefix), prompts * length.prompt),
            (rows * length.new, rows * length.total),
        ]
        parts["KV cache"] = rows * length.total * shape.kv_bytes(profile.dtype)  # alive until the log-probs are there
    else:
        passes = [(rows * length.total, rows * length.total)]
    saved = sum(layer_activations(profile, shape, *p, full) for p in passes)
    tokens, keys = max(passes)
    # Gradients of one layer's results while they are passed on.
    working = tokens * (4 * shape.intermediate * half + 3 * shape.hidden * FLOAT32) + 2 * keys * shape.attention * half
    if profile.checkpointing and on_gpu:
        # Only each layer's input is kept; one layer at a time is computed again (Chen et al., arXiv 1604.06174).
        kept = shape.layers * tokens * shape.hidden * (FLOAT32 if full else half)
        parts["activations"] = kept + saved + working
    else:
        parts["activations"] = shape.layers * saved + working
    parts["logits"] = _head(profile, shape, length, on_gpu)
    return parts


def layer_activations(profile: Profile, shape: ModelShape, tokens: int, keys: int, full: bool = False) -> int:
    """Bytes that autograd keeps of one layer for its backward pass.

    Args:
        tokens: positions that run through the layer, all rows together.
        keys: positions they attend to, all rows together.
        full: all weights are trained, not LoRA adapters.
    """
    half, targets = bytes_of(profile.dtype), shape.linears if full else profile.lora_targets
    sizes = shape.target_sizes(list(targets))
    if half < FLOAT32:
        # PEFT casts a target's input to the adapter's float32 and autocast back: a copy for each target.
        inputs = sum(i for i, _ in sizes)
    else:
        # In float32 nothing is cast: q, k and v keep the same tensor, o keeps the attention's output (counted below).
        inputs = 0
        for together in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)):
            if set(together) & set(targets):
                inputs += shape.linears[together[0]][0]
    norms = 2 * shape.hidden * FLOAT32 * (2 if full else 1)  # computed in float32; trained ones keep the result too
    attention = 2 * shape.attention * half + shape.heads * FLOAT32  # queries, output, log-sum-exp
    mlp = 3 * shape.intermediate * half  # gate, silu(gate), up
    # Keys and values are repeated for every query head wherever a padding mask is given.
    return tokens * (norms + inputs * half + attention + mlp) + keys * 2 * shape.attention * half


def _head(profile: Profile, shape: ModelShape, length: _Lengths, on_gpu: bool) -> float:
    """Log-probabilities from hidden states: never all logits at once, neither here nor in TRL 1.16."""
    half, scored = bytes_of(profile.dtype), profile.batch * length.new
    if profile.shared_prompts:
        # grpo_helpers.trainer.TokenLogps: logits, probabilities and their product in float32, then the gradient.
        chunk = min(scored, SCORE_CHUNK) * shape.vocab * (3 * FLOAT32)
        return chunk + 3 * scored * shape.hidden * half
    if on_gpu:
        tile = min(scored, TRL_POSITIONS) * TRL_VOCABULARY * half
    else:
        # Without Triton every position is scored, the prompt's too, by torch operations on whole tiles in float32; of
        # a tile wider than the vocabulary the rest is never touched, and so never resident.
        scored = profile.batch * length.total
        tile = min(scored, TRL_POSITIONS) * min(TRL_VOCABULARY, shape.vocab) * (half + 7 * FLOAT32)
    return tile + scored * shape.hidden * (FLOAT32 + 2 * half)  # hidden states and their gradient


def _knobs(old: Plan) -> Iterator[tuple[str, str, Profile, dict[str, Any]]]:
    """Changes that lower the need, the cheap ones first: knob, what it costs, the changed profile and options."""
    p, same = old.profile, old.options
    if same["trainable"] == "full":
        yield "train LoRA adapters, not all weights", "less capacity", p, same | {"trainable": "lora"}
    if p.dtype == "float32" and same["on_gpu"]:
        yield "float16 weights", "needs loss scaling", p.with_(dtype="float16"), same
    if same["on_gpu"] and not p.checkpointing:
        yield "activation checkpointing on", "one more forward", p.with_(checkpointing=True), same
    if p.batch % 2 == 0:
        smaller = p.with_(batch=p.batch // 2, accumulation=2 * p.accumulation)
        yield f"batch {smaller.batch} × accumulation {smaller.accumulation}", "smaller products", smaller, same
    if p.eval_batch > 1:
        half = p.with_(eval_batch=p.eval_batch // 2)
        yield f"eval_batch {half.eval_batch}", "slower evaluation", half, same
    if p.accumulation % 2 == 0 and p.prompts_per_step % 2 == 0:
        fewer = p.with_(accumulation=p.accumulation // 2)
        yield f"accumulation {fewer.accumulation}", "fewer questions a step", fewer, same
    if p.max_completion_length > 1:
        short = p.with_(max_completion_length=p.max_completion_length // 2)
        yield f"max_completion_length {short.max_completion_length}", "more answers cut off", short, same


def knobs(old: Plan) -> pd.DataFrame:
    """Each knob turned alone: the peak it leads to, in GB, whether that fits, and what it costs."""
    rows = []
    for name, cost, profile, options in _knobs(old):
        new = plan(profile, old.shape, budget_gb=old.budget_gb, **options)
        rows.append({"knob": name, "peak GB": new.peak_gb, "fits": new.fits, "costs": cost})
    return pd.DataFrame(rows, columns=["knob", "peak GB", "fits", "costs"]).set_index("knob")


def make_it_fit(old: Plan) -> tuple[list[str], Plan]:
    """Turn knobs, the cheapest that helps first, until the plan fits or no knob is left.

    Returns:
        The knobs turned, in order, and the plan they lead to; look at its `fits`.
    """
    turned: list[str] = []
    while not old.fits:
        for name, _, profile, options in _knobs(old):
            new = plan(profile, old.shape, budget_gb=old.budget_gb, **options)
            if new.peak_gb < 0.99 * old.peak_gb:
                turned.append(name)
                old = new
                break
        else:
            break
    return turned, old
