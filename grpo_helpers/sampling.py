"""Sampling completions without doing the same work twice.

`transformers.generate` prefills the same prompt once for each of its
completions, copies the whole KV cache at every token and keeps finished rows
in the batch. GRPO asks for many completions of each prompt, and few-shot
prompts share their beginning, so here each piece is run once:

    shared beginning (1 row) → rest of each prompt (U rows) → completions (U·G rows)

The distribution is the same; greedy decoding gives the same tokens (up to
rounding). `make bench` measures what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

TokenIds = Sequence[int]

# Trunk `.model`, head `.lm_head`, full attention, logits used as they are.
SUPPORTED = ("llama", "qwen2", "qwen3")


def supports_sharing(model: PreTrainedModel) -> bool:
    """Whether `prefill` and `sample` know this architecture; others take the libraries' own, slower ways."""
    return model.config.model_type in SUPPORTED and not getattr(model.config, "use_sliding_window", False)


def pad_left(rows: Sequence[TokenIds], pad_id: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids → ids and mask, both (rows, longest), padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def prefill(
    model: PreTrainedModel, prompts: Sequence[TokenIds], pad_id: int
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """Run the prompts through the model, their common beginning only once.

    Returns:
        The KV cache, its mask (U, P) and the last hidden state of every prompt
        (U, hidden). Differentiable where gradients are on.
    """
    device = model.device
    shared = min(len(commonprefix(list(map(tuple, prompts)))), min(map(len, prompts)) - 1)
    rest, rest_mask = pad_left([p[shared:] for p in prompts], pad_id, device)
    mask = torch.cat([torch.ones(len(prompts), shared, dtype=torch.long, device=device), rest_mask], dim=1)
    cache = DynamicCache(config=model.config)
    if shared:
        start = torch.tensor([list(prompts[0][:shared])], device=device)
        model.model(input_ids=start, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
    positions = shared + (rest_mask.cumsum(dim=1) - 1).clamp(min=0)
    hidden = model.model(
        input_ids=rest, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return cache, mask, hidden[:, -1]


class RoomyLayer(DynamicLayer):
    """A cache layer with room reserved for the tokens to come, so that none is copied twice."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._buffers, views = [], []
        for old in (layer.keys, layer.values):
            rows, heads, length, size = old.shape
            buffer = old.new_empty(rows, heads, length + room, size)
            buffer[:, :, :length] = old
            self._buffers.append(buffer)
            views.append(buffer[:, :, :length])
        self.keys, self.values = views

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object):
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


def _reserve(cache: DynamicCache, room: int) -> None:
    cache.layers = [RoomyLayer(layer, room) for layer in cache.layers]


def next_tokens(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token for each row of logits (rows, vocabulary); temperature 0 takes the likeliest.

    Draws by inverting the cumulative distribution: one random number a row
    instead of one for every token of the vocabulary.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    # Draws are in (0, 1], so that a token of probability zero is never hit.
    draws = (1 - torch.rand(len(logits), 1, device=logits.device)) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws)[:, 0].clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    num_generations: int = 1,
    temperature: float = 1.0,
) -> list[list[int]]:
    """`num_generations` completions of each prompt, as token ids that end with `eos_id` unless cut off.

    Args:
        model: a causal LM with a trunk `.model` and a head `.lm_head`, no dropout active.
        prompts: U token sequences.
        temperature: 0 decodes greedily; otherwise torch's global generator draws.

    Returns:
        U · num_generations completions, those of one prompt side by side.
    """
    cache, mask, hidden = prefill(model, prompts, pad_id)
    cache.batch_repeat_interleave(num_generations)
    _reserve(cache, max_new_tokens)
    mask = mask.repeat_interleave(num_generations, dim=0)
    hidden = hidden.repeat_interleave(num_generations, dim=0)
    position = mask.sum(dim=1, keepdim=True)
    completions: list[list[int]] = [[] for _ in range(len(mask))]
    rows = list(range(len(mask)))  # which completion each row of the batch belongs to; -1 once finished
    for left in range(max_new_tokens, 0, -1):
        token = next_tokens(model.lm_head(hidden), temperature)
        for i, value in enumerate(token.tolist()):
            if rows[i] >= 0:
                completions[rows[i]].append(value)
                if value == eos_id:
                    rows[i] = -1
        alive = [i for i, row in enumerate(rows) if row >= 0]
        if not alive or left == 1:
            break
        if len(alive) <= 0.75 * len(rows):  # let finished rows go, not too often: it copies the cache
            keep = torch.tensor(alive, device=mask.device)
            cache.batch_select_indices(keep)
            _reserve(cache, left)
            token, mask, position, rows = token[keep], mask[keep], position[keep], [rows[i] for i in alive]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        hidden = model.model(
            input_ids=token[:, None], attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        position = position + 1
    return completions
