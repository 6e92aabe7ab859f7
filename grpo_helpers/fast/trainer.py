"""TRL's GRPOTrainer with each prompt run once instead of once per completion.

Two of its methods are overridden, the one that samples and the one that scores; a third may leave out tied groups.
The rest is TRL's. `Profile.shared_prompts` asks for it: on a CPU the saved work is most of a step (`make bench`). TRL
scores where a GPU's activation checkpointing is on, and for an entropy bonus, as the entropies here carry no gradient.
"""

import copy
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import PreTrainedModel
from trl import GRPOTrainer

from ..models import causal_lm
from .sampling import go_on, prefill, sample_policy

SCORE_CHUNK = 128  # completion tokens whose logits (tokens × vocabulary) are in memory at a time
SCORED_TOGETHER = 16  # completions are scored in parts, short to long, each padded to its own longest


class TokenLogps(torch.autograd.Function):
    """Log-probability and entropy of each next token, without keeping any logits for the backward pass.

    d logp(token) / d hidden = W[token] - Σ_v p(v) W[v] needs no more than what the forward pass has at hand, so the
    gradient (N, hidden) is computed there instead of the logits (N, vocabulary) being stored. The head W is frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, vocabulary = len(tokens), weight.shape[0]
        size = max(1, min(SCORE_CHUNK, n))
        # Made once: memory fresh from the system costs more than the arithmetic that is done in it.
        half = hidden.new_empty(size, vocabulary, dtype=weight.dtype)
        logits, p = (hidden.new_empty(size, vocabulary, dtype=torch.float32) for _ in range(2))
        logps, entropies = (hidden.new_empty(n, dtype=torch.float32) for _ in range(2))
        gradients = hidden.new_empty(n, hidden.shape[1], dtype=weight.dtype)
        for start in range(0, n, size):
            part = slice(start, min(start + size, n))
            m = part.stop - start
            torch.mm(hidden[part].to(weight.dtype), weight.T, out=half[:m])
            x = logits[:m].copy_(half[:m]).div_(temperature)
            x -= x.amax(dim=-1, keepdim=True)
            total = torch.exp(x, out=p[:m]).sum(dim=-1, keepdim=True)
            log_total = total.log()
            logps[part] = (x.gather(-1, tokens[part, None]) - log_total)[:, 0]
            p[:m] /= total
            gradients[part] = weight[tokens[part]] - half[:m].copy_(p[:m]) @ weight
            entropies[part] = log_total[:, 0] - p[:m].mul_(x).sum(dim=-1)
        ctx.save_for_backward(gradients.div_(temperature))
        ctx.dtype = hidden.dtype
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, grad_logps: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return (grad_logps[:, None] * gradients).to(ctx.dtype), None, None, None


def token_logps(
    hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy (N,) of tokens (N,) after hidden states (N, hidden); weight (vocabulary, hidden)."""
    if not weight.requires_grad:
        return TokenLogps.apply(hidden, weight, tokens, temperature)
    logps = ((hidden @ weight.T).float() / temperature).log_softmax(dim=-1)
    entropy = -(logps.detach().exp() * logps.detach()).sum(dim=-1)
    return logps.gather(-1, tokens[:, None])[:, 0], entropy


def completion_logps(
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, with gradients, and entropies of completion tokens, each distinct prompt run once.

    Prompts and their mask are (B, P), padded on the left; completions, their mask and both results (B, C), padded on
    the right and zero where the mask is.
    """
    rows, which = torch.unique(torch.cat([prompt_ids, prompt_mask], dim=1), dim=0, return_inverse=True)
    prompts = [ids[keep.bool()].tolist() for ids, keep in (row.chunk(2) for row in rows)]
    beginning, cache, mask, last = prefill(model, prompts, pad_id=0)
    scored = completion_mask.bool()
    places = torch.arange(scored.shape[1], device=scored.device)
    ends, starts = (scored * (places + 1)).amax(dim=1), prompt_mask.sum(dim=1, keepdim=True)
    order, hidden = ends.argsort(), []
    for part in order.split(SCORED_TOGETHER):
        longest, asked = max(1, int(ends[part].max())), which[part]
        states = last[asked][:, None]
        if longest > 1:
            own, fed = copy.copy(cache), places[: longest - 1]
            own.layers = [copy.copy(layer) for layer in cache.layers]
            own.batch_select_indices(asked)
            seen = torch.cat([mask[asked], completion_mask[part][:, fed]], dim=1)
            trunk = go_on(model, beginning, own, completion_ids[part][:, fed], seen, starts[part] + fed)
            states = torch.cat([states, trunk], dim=1)
        hidden.append(states[scored[part, :longest]])
    tokens = completion_ids[order][scored[order]]
    logps, entropies = token_logps(torch.cat(hidden), model.lm_head.weight, tokens, temperature)
    blank, back = torch.zeros(scored.shape, dtype=logps.dtype, device=logps.device), order.argsort()
    return tuple(blank.masked_scatter(scored[order], values)[back] for values in (logps, entropies))


class SharedPromptTrainer(GRPOTrainer):
    """GRPOTrainer for plain text, on one process: it goes past the wrapper that averages the gradients of several."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (processes := self.accelerator.num_processes) > 1:
            raise ValueError(f"{processes} processes, and SharedPromptTrainer is made for one; take TRL's GRPOTrainer")

    skip_tied = False

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """With `skip_tied` none of advantage zero, unless another term pushes it; nor is its entropy logged."""
        batch, args = super()._generate_and_score_completions(inputs), self.args
        others = self.beta != 0 or args.entropy_coef != 0 or args.use_adaptive_entropy or args.steps_per_generation > 1
        if not self.skip_tied or others or self.loss_type not in ("dapo", "cispo", "vespo"):  # averages over all tokens
            return batch
        keep = batch["advantages"] != 0
        keep[0] = True  # a loss of zero wants a row, too
        return {name: x[keep] if torch.is_tensor(x) and x.dim() else x for name, x in batch.items()}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, *args: Any
    ) -> tuple[list[list[int]], None]:
        groups = prompt_ids[::num_generations]  # TRL repeats each prompt side by side
        if prompt_ids != [prompt for prompt in groups for _ in range(num_generations)]:
            raise ValueError(f"{len(prompt_ids)} prompts are not groups of {num_generations} equal ones side by side")
        longest, temperature = self.max_completion_length, self.temperature
        return sample_policy(self.model, self._tokenizer, groups, longest, num_generations, temperature), None

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        # Checkpointing recomputes layers without the cache in which prompts are shared.
        if self.args.activation_checkpointing or self.args.entropy_coef != 0 or self.args.use_adaptive_entropy:
            given = model, input_ids, attention_mask, logits_to_keep
            return super()._get_per_token_logps_and_entropies(*given, *args, **kwargs)
        prompts = input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]
        completions = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        # Autocast would bring the adapters' inputs back to what they are.
        with self.accelerator.autocast(), disable_input_dtype_casting(model):
            lm = causal_lm(self.accelerator.unwrap_model(model))
            logps, entropies = completion_logps(lm, *prompts, *completions, self.temperature)
        return logps, entropies, None
