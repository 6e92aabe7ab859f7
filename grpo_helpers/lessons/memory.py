"""What a GRPO configuration needs in memory, before it is run.

A plan is a table: components (weights, adapters, gradients, ...) by phases (generation, update, optimizer step,
evaluation). Each number is a plain formula over the model's shape and the profile, for the longest prompts and
completions that the profile allows. Within a phase it is that of the worst moment; the peak is the largest phase.

tests/test_memory.py holds the formulas against a trace of what the libraries allocate on a GPU, and against
measurements on a CPU. `overhead`, what a GPU takes beyond that, is an estimate. 1 GB is 10^9 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pandas as pd

from ..profiles import GB, Profile

FLOAT32 = 4
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# On T4s torch reports 14.56 GiB (Zheng-Chong/CatVTON#133) to 14.75 (NUS-HPC-AI-Lab/VideoSys#192): 15.6 to 15.8 GB.
# A little of that should stay free.
T4_GB = 15.0

SCORE_CHUNK = 128  # fast.trainer: positions whose logits are in memory at a time
TRL_POSITIONS, TRL_VOCABULARY = 4096, 32768  # trl.kernels.chunked_logprob: the tile that TRL scores at a time

# What no formula gives: the libraries' own memory, and freed blocks too scattered to be used again, as a share of what
# comes in many blocks of many sizes. CPU: chosen by the rows that data/runs/memory-cpu marks as fitted. GPU: an
# estimate, CUDA's context and kernels included.
CPU_OVERHEAD_GB, CPU_SLACK = 0.1, 1 / 3
GPU_OVERHEAD_GB, GPU_SLACK = 0.6, 0.1

COMPONENTS = ("weights", "adapters", "gradients", "optimizer", "activations", "KV cache", "logits", "overhead")
PHASES = ("generation", "update", "optimizer step", "evaluation")
Parts = dict[str, float]  # component → bytes


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder as in Llama, Qwen2 and Qwen3: RMSNorm, grouped-query attention, gated MLP.

    `biases` counts the parameters of a layer that are no matrix and no layer norm.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = True
    biases: int = 0

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The shape in a configuration of transformers, such as `model.config`; a ValueError for what is no such model.

        Options that no released model of these families uses, such as Llama's biases, are not counted.
        """
        if config.model_type not in (known := ("llama", "qwen2", "qwen3")):
            raise ValueError(f"model_type {config.model_type!r}: the planner knows only {', '.join(known)}")
        heads, kv_heads, hidden = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        # of q, k and v; norms of queries and keys
        biases = {"llama": 0, "qwen2": (heads + 2 * kv_heads) * head_dim, "qwen3": 2 * head_dim}
        sizes = (config.num_hidden_layers, heads, kv_heads, head_dim, config.intermediate_size, config.vocab_size)
        return cls(hidden, *sizes, config.tie_word_embeddings, biases[config.model_type])

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
        return self.layers * layer + self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """A is (rank, inputs) and B is (outputs, rank), for each target of each layer (arXiv 2106.09685, §4.1)."""
        return self.layers * sum(rank * sum(self.linears[target]) for target in targets)

    def kv_bytes(self, dtype: str = "float16") -> int:
        """Bytes of KV cache for one token: a key and a value for each KV head of each layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES[dtype]


# As in the public config.json of Qwen/Qwen2.5-1.5B; layers, heads and the tied head also in arXiv 2412.15115, table 1.
QWEN25_15B = ModelShape(1536, 28, 12, 2, 128, 8960, 151936, biases=2048)
SMOLLM2_135M = ModelShape(576, 30, 9, 3, 64, 1536, 49152)  # the public config.json of HuggingFaceTB/SmolLM2-135M


class Plan(NamedTuple):
    """What `plan` found: `table` has a row for each component, a column for each phase, in GB."""

    table: pd.DataFrame
    shape: ModelShape

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


def plan(
    profile: Profile,
    shape: ModelShape,
    *,
    trainable: str = "lora",
    on_gpu: bool = True,
    prompt_tokens: int | None = None,
    shared_prefix: int = 0,
) -> Plan:
    """The memory of training `profile` with a model of `shape`, phase by phase.

    Args:
        trainable: "lora", or "full" for all weights (then in float32, as a gradient scaler needs).
        on_gpu: a CPU does without checkpointing, and has another overhead. There the plan is for shared prompts only:
            TRL's own scoring works in float32 on a CPU, and was measured to need twice what this says.
        prompt_tokens: the longest prompt; None takes the profile's limit.
        shared_prefix: tokens that all prompts begin with; they are run once where prompts are shared.
    """
    if trainable not in ("lora", "full"):
        raise ValueError(f"trainable={trainable!r}: take 'lora' or 'full'")
    full, half = trainable == "full", BYTES[profile.dtype]  # half: bytes of a number while computing; 2 is autocast
    p = profile.with_(
        checkpointing=profile.checkpointing and on_gpu, max_prompt_length=prompt_tokens or profile.max_prompt_length
    )
    sampled = p.batch * p.accumulation  # TRL samples all completions of a step at once
    phases = {
        "generation": _sampling(p, shape, sampled, p.num_generations, shared_prefix, full),
        "update": _update(p, shape, shared_prefix, full),
        "optimizer step": {},
        "evaluation": _sampling(p.with_(shared_prompts=True), shape, p.eval_batch, 1, shared_prefix, full),
    }
    table = pd.DataFrame(phases, index=list(COMPONENTS), columns=list(PHASES), dtype=float).fillna(0.0)
    # Trained weights are float32: a gradient scaler refuses float16 ones, and small steps would round away.
    table.loc["weights"] = shape.parameters * (FLOAT32 if full else half)
    if full:  # autocast keeps a copy of trained weights; with LoRA the reference is the policy, adapters off
        table.loc["weights", "update"] += (half < FLOAT32) * shape.parameters * half
        table.loc["weights"] += bool(p.beta) * shape.parameters * FLOAT32
    elif half < FLOAT32 and not on_gpu and p.shared_prompts:  # a copy as a CPU multiplies it, fast.sampling
        table.loc["weights", ["generation", "evaluation"]] *= 2
    trained = shape.parameters if full else shape.lora_parameters(p.lora_rank, p.lora_targets)
    table.loc["adapters"] += 0 if full else trained * FLOAT32
    table.loc["optimizer"] = 2 * trained * FLOAT32  # Adam: running means of the gradient and of its square
    table.loc["gradients", ["update", "optimizer step"]] = trained * FLOAT32
    fixed, slack = (GPU_OVERHEAD_GB, GPU_SLACK) if on_gpu else (CPU_OVERHEAD_GB, CPU_SLACK)
    # On a GPU transformers.generate lets the KV cache grow by copying, which scatters it, too.
    scattered = ["activations", "KV cache"] if on_gpu else ["activations"]
    table.loc["overhead"] = fixed * GB + slack * table.loc[scattered].sum()
    return Plan(table / GB, shape)


def _worst(*moments: Parts) -> Parts:
    return max(moments, key=lambda parts: sum(parts.values()))


def _sampling(profile: Profile, shape: ModelShape, rows: int, group: int, prefix: int, full: bool) -> Parts:
    """Sampling `rows` completions, `group` of each prompt: the prompts at the start, the full cache at the end."""
    dtype = "float32" if full else profile.dtype  # no autocast here
    half, prompt = BYTES[dtype], profile.max_prompt_length
    total, wide = prompt + profile.max_completion_length, 3 * half  # wide: bytes of a number amid the MLP
    if profile.shared_prompts:
        # fast.sampling: attention in float32 with stored scores, masked, joined, as probabilities. In float32 adapters
        # are merged into copies of the weights they belong to.
        new, asked = total - prefix, -(-rows // group) * (prompt - prefix)
        # While finished rows go, one layer's cache is there as it was, without them, and with new room.
        scores, read = 3 * asked * prompt * shape.heads * FLOAT32, 0
        cache = shape.kv_bytes("float32") * (1 + 1.5 / shape.layers)
        matrices = sum(i * o for i, o in (shape.linears[target] for target in profile.lora_targets))
        merged = 0 if full or half < FLOAT32 else shape.layers * matrices * half
    else:
        # transformers.generate: a cache that grows by copying, a layer at a time; a layer's keys and values are
        # repeated for every query head; scores are not stored. PEFT computes adapters of 16-bit weights in float32.
        new, asked, scores, merged = total, rows * prompt, 0, 0
        wide = half + 3 * FLOAT32 if half < FLOAT32 and "up_proj" in profile.lora_targets else wide
        read, cache = 2 * rows * total * shape.attention * half, shape.kv_bytes(dtype) * (1 + 1 / shape.layers)
    # Without gradients a layer's results live until the next layer: MLP, and norms in float32.
    passing = max(prefix, asked) * (wide * shape.intermediate + 3 * shape.hidden * FLOAT32)
    start = {"KV cache": asked * shape.kv_bytes(dtype), "activations": max(passing, scores)}
    # Logits of one position of each row, their float32 copy, probabilities, and a running sum of them
    end = {"KV cache": rows * new * cache, "activations": read, "logits": rows * shape.vocab * (half + 3 * FLOAT32)}
    return _worst(start, end) | {"adapters": merged}


def _update(profile: Profile, shape: ModelShape, prefix: int, full: bool) -> Parts:
    """Log-probabilities, loss and backward of one micro-batch: its logits, or the backward pass of its last layer."""
    half, rows, prompt = BYTES[profile.dtype], profile.batch, profile.max_prompt_length
    new, total = rows * profile.max_completion_length, prompt + profile.max_completion_length
    tokens = keys = largest = rows * total
    own = scores = cache = 0
    # Log-probabilities from hidden states, never from all logits at once: TRL's tiles, or TokenLogps
    logits = min(new, TRL_POSITIONS) * min(shape.vocab, TRL_VOCABULARY) * half
    if profile.shared_prompts and not profile.checkpointing:
        # fast.trainer: the common beginning once, the rest of each prompt once, then the completions. Attention is
        # computed again in the backward pass; keys and values stay until the log-probabilities are there.
        rest = min(rows, profile.prompts_per_step) * (prompt - prefix)
        tokens, keys, largest = prefix + rest + new, prefix, max(prefix, rest, new)
        scores, own = shape.heads * FLOAT32 * new * total, 2 * (rest + new) * shape.attention * FLOAT32
        cache = rows * (total - prefix) * shape.kv_bytes(profile.dtype)
        logits = min(new, SCORE_CHUNK) * shape.vocab * (half + 2 * FLOAT32)
    saved = layer_activations(profile, shape, tokens, keys, full) + own
    inputs = tokens * shape.hidden * (FLOAT32 if full else half)
    # With checkpointing only each layer's input is kept; one layer at a time is computed again (arXiv 1604.06174).
    kept, again = (shape.layers * inputs, saved) if profile.checkpointing else (shape.layers * saved, 0)
    # Gradients of one layer's results while they are passed on
    passing = largest * (4 * shape.intermediate * half + 3 * shape.hidden * FLOAT32) + 3 * scores
    passing += 2 * keys * shape.attention * half
    logits += new * shape.hidden * (FLOAT32 + 2 * half)  # hidden states and their gradient
    return {"KV cache": cache} | _worst(
        {"activations": kept, "logits": logits}, {"activations": kept + again + passing, "logits": 0}
    )


def layer_activations(profile: Profile, shape: ModelShape, tokens: int, keys: int, full: bool = False) -> int:
    """Bytes that autograd keeps of one layer for its backward pass.

    So many positions, `tokens`, run through the layer, all rows together; `keys` are those whose keys and values are
    repeated for every query head, as wherever a padding mask is given; `full`: all weights are trained, not adapters.
    """
    half, targets = BYTES[profile.dtype], list(shape.linears if full else profile.lora_targets)
    # PEFT casts a target's input to the adapter's float32 and autocast back: a copy for each target. In float32 nothing
    # is cast: q, k and v keep the same tensor, o keeps the attention's output (counted below).
    together = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    kept = targets if half < FLOAT32 else [group[0] for group in together if set(group) & set(targets)]
    inputs = sum(shape.linears[target][0] for target in kept)
    between = 0 if full else len(targets) * profile.lora_rank * FLOAT32  # A·x of each adapter
    norms = 2 * shape.hidden * FLOAT32 * (2 if full else 1)  # computed in float32; trained ones keep the result too
    attention = 2 * shape.attention * half + shape.heads * FLOAT32  # queries, output, log-sum-exp
    mlp = 3 * shape.intermediate * half  # gate, silu(gate), up
    return tokens * (norms + inputs * half + between + attention + mlp) + keys * 2 * shape.attention * half
