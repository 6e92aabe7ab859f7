"""Sampling completions without doing the same work twice.

`transformers.generate` prefills the same prompt once for each of its completions, copies the whole KV cache at every
token and keeps finished rows in the batch. GRPO asks for many completions of each prompt, and few-shot prompts share
their beginning, so here each piece is run once:

    shared beginning (1 row) → rest of each prompt (U rows) → completions (U·G rows)

Keys and values of the shared beginning stay one row, which all rows look at. The distribution is the same; greedy
decoding gives the same tokens (up to rounding). `make bench` measures what it saves.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from os.path import commonprefix
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..models import causal_lm, end_ids, eval_mode

TokenIds = Sequence[int]
# Trunk `.model`, head `.lm_head`, full attention, logits used as they are.
SUPPORTED = ("llama", "qwen2", "qwen3")


def supports_sharing(model: PreTrainedModel) -> bool:
    """Whether `prefill` and `sample` know this architecture; others take the libraries' own, slower ways."""
    return model.config.model_type in SUPPORTED and not getattr(model.config, "use_sliding_window", False)


def pad_left(rows: Sequence[TokenIds], pad_id: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Rows of token ids → ids and mask, both (rows, longest), padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


# For each layer its keys and values, each (key heads, tokens, size), in the precision of `attention_dtype`.
Beginning = list[tuple[Tensor, Tensor]]


def attention_dtype(given: torch.dtype) -> torch.dtype:
    """The precision of attention's products: bfloat16 stays, as in transformers; float16, which overflows, does not."""
    return given if given == torch.bfloat16 else torch.float32


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, *beginning: Tensor) -> Tensor:
    """Attention of every row to a common beginning, which exists once, and to tokens of its own.

    Shapes: query (rows, heads, n, size), consecutive heads share keys; key and value (rows, key heads, own, size);
    mask (rows, 1, n, own), True where a token may look; the beginning's keys and values (key heads, first, size);
    returned, for transformers, (rows, n, heads, size).
    """
    rows, heads, n, size = query.shape
    groups, own = key.shape[1:3]
    first_keys, first_values = beginning
    first, asked = first_keys.shape[1], heads // groups * n  # heads that share keys count as further queries
    dtype = first_keys.dtype
    with torch.autocast(query.device.type, enabled=False):
        key, value = key.to(dtype), value.to(dtype)
        query_ = (query.to(dtype) * scaling).reshape(rows, groups, asked, size)
        near = (query_ @ key.mT).view(rows, heads, n, own)
        near = near.masked_fill(~mask, torch.finfo(key.dtype).min).view(rows, groups, asked, own)
        # Where the beginning is concerned, the rows count as further queries, too.
        far = query_.transpose(0, 1).reshape(groups, rows * asked, size) @ first_keys.mT
        far = far.view(groups, rows, asked, first).transpose(0, 1)
        far, near = torch.cat([far, near], dim=-1).softmax(dim=-1).split([first, own], dim=-1)
        far = far.transpose(0, 1).reshape(groups, rows * asked, first) @ first_values
        output = far.view(groups, rows, asked, size).transpose(0, 1) + near @ value
    return output.reshape(rows, heads, n, size).transpose(1, 2).to(query.dtype)


def attend(
    module: torch.nn.Module, *tensors: Tensor, scaling: float, beginning: Beginning, **kwargs: object
) -> tuple[Tensor, None]:
    """`attention` as transformers calls it. Backward computes it again: kept, it took a quarter of a step's memory."""
    given = *tensors, scaling, *beginning[module.layer_idx]
    again = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in it is drawn
    return checkpoint(attention, *given, **again) if torch.is_grad_enabled() else attention(*given), None


AttentionInterface.register("common_beginning", attend)


def go_on(
    model: PreTrainedModel, beginning: Beginning, cache: DynamicCache, ids: Tensor, mask: Tensor, positions: Tensor
) -> Tensor:
    """Hidden states (rows, n, hidden) of `ids` (rows, n), which follow the beginning and what the cache holds.

    The mask (rows, cached + n) has a 1 for each token of a row's own, a 0 for padding.
    """
    n, total = ids.shape[1], mask.shape[1]
    allowed = mask.bool()[:, None, None] & torch.ones(n, total, dtype=torch.bool, device=mask.device).tril(total - n)
    usual = model.config._attn_implementation
    inputs = {"input_ids": ids, "attention_mask": allowed, "position_ids": positions, "past_key_values": cache}
    model.config._attn_implementation = "common_beginning"
    try:
        return model.model(**inputs, use_cache=True, beginning=beginning).last_hidden_state
    finally:
        model.config._attn_implementation = usual


def prefill(
    model: PreTrainedModel, prompts: Sequence[TokenIds], pad_id: int
) -> tuple[Beginning, DynamicCache, Tensor, Tensor]:
    """Run U prompts through the model, their common beginning only once; differentiable where gradients are on.

    Returns the common beginning; a cache of what follows it, with its mask (U, rest); the last hidden state of every
    prompt (U, hidden).
    """
    config, device = model.config, model.device
    shared = min(len(commonprefix(list(map(tuple, prompts)))), min(map(len, prompts)) - 1)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = attention_dtype(model.dtype)
    nothing = torch.empty(config.num_key_value_heads, 0, size, device=device, dtype=dtype)
    beginning = [(nothing, nothing)] * config.num_hidden_layers
    if shared:
        start = torch.tensor([list(prompts[0][:shared])], device=device)
        once = DynamicCache(config=config)
        model.model(input_ids=start, past_key_values=once, use_cache=True)
        beginning = [(layer.keys[0].to(dtype), layer.values[0].to(dtype)) for layer in once.layers]
    rest, mask = pad_left([p[shared:] for p in prompts], pad_id, device)
    cache = DynamicCache(config=config)
    positions = shared + (mask.cumsum(dim=1) - 1).clamp(min=0)
    return beginning, cache, mask, go_on(model, beginning, cache, rest, mask, positions)[:, -1]


@contextlib.contextmanager
def packed_linears(model: torch.nn.Module, rows: int) -> Iterator[None]:
    """Linear layers in bfloat16 on a CPU laid out as oneDNN multiplies them, inside a `with` block.

    Otherwise it rearranges every weight anew for every token, which for a few rows takes longer than the product.
    """
    linears = [m for m in model.modules() if type(m) is torch.nn.Linear]
    layers = [m for m in linears if m.weight.dtype == torch.bfloat16 and m.weight.device.type == "cpu"]
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        layers = []
    plain = {"attr": "none", "scalars": [], "algorithm": ""}  # nothing after the product
    try:
        for layer in layers:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
            layer.forward = functools.partial(torch.ops.mkldnn._linear_pointwise, W=packed, B=layer.bias, **plain)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


class RoomyLayer(DynamicLayer):
    """A cache layer with room reserved for the tokens to come, so that none is copied twice."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = attention_dtype(layer.dtype), layer.device, True
        self._buffers, views = [], []
        for old in (layer.keys, layer.values):
            rows, heads, length, size = old.shape
            buffer = old.new_empty(rows, heads, length + room, size, dtype=self.dtype)
            buffer[:, :, :length] = old
            self._buffers.append(buffer)
            views.append(buffer[:, :, :length])
        self.keys, self.values = views

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object):
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


def reserve(cache: DynamicCache, room: int, keep: Tensor | None = None) -> None:
    """Room for so many tokens, only for the rows `keep`; a layer at a time, so that the cache never exists twice."""
    for i, layer in enumerate(cache.layers):
        if keep is not None:
            layer.batch_select_indices(keep)
        cache.layers[i] = RoomyLayer(layer, room)


def next_tokens(logits: Tensor, temperature: float) -> Tensor:
    """One token for each row of logits (rows, vocabulary); temperature 0 takes the likeliest.

    Draws by inverting the cumulative distribution: one random number a row, not one for every token of the vocabulary.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.float() / temperature
    cumulative = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_().cumsum_(dim=-1)
    # Draws are in (0, 1], so that a token of probability zero is never hit.
    draws = (1 - torch.rand(len(logits), 1, device=logits.device)) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws)[:, 0].clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int],
    pad_id: int,
    num_generations: int = 1,
    temperature: float = 1.0,
) -> list[list[int]]:
    """`num_generations` completions of each prompt, side by side: token ids that end with (an) `eos_id` unless cut off.

    No dropout may be active. Temperature 0 decodes greedily; otherwise torch's global generator draws.
    """
    ends = {eos_id} if isinstance(eos_id, int) else set(eos_id)
    beginning, cache, mask, hidden = prefill(model, prompts, pad_id)
    cache.batch_repeat_interleave(num_generations)
    reserve(cache, max_new_tokens)
    mask = mask.repeat_interleave(num_generations, dim=0)
    hidden = hidden.repeat_interleave(num_generations, dim=0)
    position = beginning[0][0].shape[1] + mask.sum(dim=1, keepdim=True)
    completions: list[list[int]] = [[] for _ in range(len(mask))]
    rows = list(range(len(mask)))  # which completion each row of the batch belongs to; -1 once finished
    for left in range(max_new_tokens, 0, -1):
        token = next_tokens(model.lm_head(hidden), temperature)
        for i, value in enumerate(token.tolist()):
            if rows[i] >= 0:
                completions[rows[i]].append(value)
                if value in ends:
                    rows[i] = -1
        alive = [i for i, row in enumerate(rows) if row >= 0]
        if not alive or left == 1:
            break
        if len(alive) <= 0.75 * len(rows):  # let finished rows go, not too often: it copies the cache
            keep = torch.tensor(alive, device=mask.device)
            reserve(cache, left, keep)
            token, mask, position, rows = token[keep], mask[keep], position[keep], [rows[i] for i in alive]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        hidden = go_on(model, beginning, cache, token[:, None], mask, position)[:, -1]
        position = position + 1
    return completions


@contextlib.contextmanager
def quick_adapters(model: torch.nn.Module) -> Iterator[None]:
    """LoRA adapters at less cost inside a `with` block, to sample from; afterwards the model is as it was, bit for bit.

    In float32 they are folded into the weights. In 16 bits that would round most of a small update away, so they stay
    beside the weights as two small products in the weights' precision, which is what training under autocast computes.
    Adapters of another kind (DoRA, with a bias, on an embedding or a head tied to one) are left to PEFT.
    """
    embedding = causal_lm(model).get_input_embeddings().weight
    layers = [m for m in model.modules() if _is_plain(m) and m.get_base_layer().weight is not embedding]
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, originals, strict=True):
            if weight.dtype == torch.float32:
                layer.merge(safe_merge=True)  # builds a new tensor, leaving the original alone
                layer.forward = layer.get_base_layer().__call__  # what PEFT ends up calling, found out anew each time
            else:
                layer.forward = beside(layer)
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.data = original
            layer.merged_adapters.clear()
            layer.__dict__.pop("forward", None)


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether it is a linear layer with adapters in use that add scaling · B A x, and nothing else."""
    if type(module) is not Linear or module.merged or module.disable_adapters:
        return False
    return not module.lora_variant and not any(module.lora_bias.values())


def beside(layer: Linear) -> Callable[[Tensor], Tensor]:
    """The layer as a function of its input: weight and adapters in the weight's precision, without PEFT's casts."""
    base = layer.get_base_layer()
    dtype = base.weight.dtype
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    downs = [layer.lora_A[name].weight.detach().to(dtype) for name in names]
    ups = [(layer.scaling[name] * layer.lora_B[name].weight.detach()).to(dtype) for name in names]

    def forward(x: Tensor) -> Tensor:
        result = base(x)
        for down, up in zip(downs, ups, strict=True):
            result += linear(linear(x, down), up)
        return result

    return forward


def sample_policy(
    model: torch.nn.Module,
    tokenizer: Any,
    prompts: Sequence[TokenIds],
    max_new_tokens: int,
    num_generations: int,
    temperature: float,
) -> list[list[int]]:
    """`sampling.sample` from a policy that may carry LoRA adapters, and may be in training."""
    lm = causal_lm(model)
    options = {"max_new_tokens": max_new_tokens, "num_generations": num_generations, "temperature": temperature}
    # In training, layers with activation checkpointing would throw the cache away.
    with eval_mode(model), quick_adapters(model), packed_linears(lm, len(prompts) * num_generations):
        return sample(lm, prompts, eos_id=end_ids(lm, tokenizer), pad_id=tokenizer.pad_token_id, **options)
