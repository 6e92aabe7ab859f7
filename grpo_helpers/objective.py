"""The GRPO objective in plain torch: what notebook 01 builds up, with its input checked.

    rewards → group_advantages ─┐
    logits → token_logps → log_ratio → clipped_objective → aggregate → loss

Symbols as in DeepSeekMath (arXiv 2402.03300): B completions in groups of G, T
tokens in the longest. Rows of a group lie side by side; tokens after the end of
a completion are masked. Every function is equal to TRL's by test, gradients
included.
"""

from __future__ import annotations

import torch

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo")
SCALES = ("group", "batch", "none")
RATIO_LEVELS = ("token", "sequence")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}; choose one of {', '.join(choices)}")


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _same_shape(**tensors: torch.Tensor) -> None:
    """All must be (B, T); the message names every shape."""
    shapes = {name: _shape(tensor) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"one shape (completions, tokens) is needed for all of: {listed}")


def group_advantages(
    rewards: torch.Tensor, num_generations: int, scale: str = "group", eps: float = 1e-4
) -> torch.Tensor:
    """How much better each completion is than its group: (r - mean) / (std + eps).

    Args:
        rewards: (B,), the `num_generations` completions of one prompt side by side.
        scale: what divides, "group" the group's sample standard deviation (DeepSeekMath, section 4.1.2),
            "batch" that of all rewards, "none" nothing (Dr. GRPO, arXiv 2503.20783, section 3.2).
        eps: keeps the division safe when all rewards of a group are equal; TRL's value.

    Returns:
        (B,); each group sums to 0.

    Raises:
        ValueError: groups of one, a batch that no group divides, or a reward that is not finite.
    """
    _choice("scale", scale, SCALES)
    if num_generations < 2:
        raise ValueError(
            f"num_generations={num_generations} with rewards {_shape(rewards)}: a group needs at least 2 completions, "
            "or there is nothing to compare"
        )
    if rewards.dim() != 1 or len(rewards) == 0 or len(rewards) % num_generations:
        raise ValueError(
            f"rewards of shape {_shape(rewards)} cannot be split into groups of num_generations={num_generations}; "
            "give one reward for each completion, (prompts · num_generations,)"
        )
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    if not rewards.isfinite().all():
        where = (~rewards.isfinite()).nonzero()[:, 0].tolist()
        raise ValueError(
            f"rewards of shape {_shape(rewards)} are not finite at {where[:8]} ({rewards[where[0]].item()}); "
            "one alone would spoil its whole group: return a number from the reward function"
        )
    groups = rewards.view(-1, num_generations)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    elif scale == "batch":
        advantages = advantages / (rewards.std() + eps)
    return advantages.view(-1)


def token_logps(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log π(token | what stands before it), for tokens that are given.

    Args:
        logits: (B, T, V), the policy's scores *before* each token; the caller shifts by one.
        tokens: (B, T) token ids.
        temperature: the one that was sampled with.

    Returns:
        (B, T), at most 0.

    Raises:
        ValueError: shapes that do not belong together, or a temperature that is not positive.
    """
    if logits.dim() != 3 or _shape(logits)[:2] != _shape(tokens):
        raise ValueError(
            f"logits {_shape(logits)} do not belong to tokens {_shape(tokens)}; "
            "needed are (completions, tokens, vocabulary) and (completions, tokens)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; log-probabilities need a temperature above 0")
    logps = (logits.float() / temperature).log_softmax(dim=-1)
    return logps.gather(-1, tokens[..., None])[..., 0]


def log_ratio(logps: torch.Tensor, old_logps: torch.Tensor, mask: torch.Tensor, level: str = "token") -> torch.Tensor:
    """log of π(now) / π(when sampled): of each token, or its mean over each completion.

    Args:
        logps, old_logps, mask: (B, T).
        level: "token" (DeepSeekMath, equation 3) or "sequence" (GSPO, arXiv 2507.18071, equation 7).

    Returns:
        (B, T) for "token", (B, 1) for "sequence".
    """
    _choice("level", level, RATIO_LEVELS)
    _same_shape(logps=logps, old_logps=old_logps, mask=mask)
    difference = logps - old_logps
    if level == "token":
        return difference
    return (difference * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def clipped_objective(
    ratio: torch.Tensor, advantages: torch.Tensor, epsilon_low: float = 0.2, epsilon_high: float | None = None
) -> torch.Tensor:
    """min(ratio · A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) · A), to be made large.

    Args:
        ratio: (B, T) or (B, 1).
        advantages: (B,).
        epsilon_high: None takes `epsilon_low`; larger is DAPO's clip-higher (arXiv 2503.14476, section 3.1).

    Returns:
        The shape of `ratio`.
    """
    if ratio.dim() != 2 or _shape(advantages) != (len(ratio),):
        raise ValueError(
            f"ratio {_shape(ratio)} and advantages {_shape(advantages)}: needed are (completions, tokens or 1) and "
            "one advantage for each completion, (completions,)"
        )
    high = epsilon_low if epsilon_high is None else epsilon_high
    if not 0 <= epsilon_low <= 1 or not high >= 0:
        raise ValueError(f"epsilon_low={epsilon_low}, epsilon_high={high}; take 0 ≤ epsilon_low ≤ 1, epsilon_high ≥ 0")
    weight = advantages[:, None]
    return torch.min(ratio * weight, ratio.clamp(1 - epsilon_low, 1 + high) * weight)


def kl_estimate(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """A non-negative estimate of KL(policy ‖ reference) from one sampled token (DeepSeekMath, equation 4).

    Args:
        logps, ref_logps: (B, T), of the same tokens under policy and reference.

    Returns:
        (B, T); its mean over tokens the policy samples is the KL divergence.
    """
    _same_shape(logps=logps, ref_logps=ref_logps)
    difference = ref_logps - logps
    return difference.exp() - difference - 1


def aggregate(
    values: torch.Tensor,
    mask: torch.Tensor,
    loss_type: str = "dapo",
    max_completion_length: int | None = None,
    num_tokens: float | None = None,
) -> torch.Tensor:
    """Token values → one number.

    Args:
        values: (B, T), or (B, 1) for one value a completion, counted for each of its tokens.
        mask: (B, T), 1 for tokens that count.
        loss_type: how to average,
            "grpo": over tokens within each completion, then over completions (DeepSeekMath, equation 3);
            "bnpo": over all tokens of this batch;
            "dapo": over all tokens of the whole optimizer step, `num_tokens` (DAPO, arXiv 2503.14476, section 3.3);
            "dr_grpo": sum divided by a constant, B · `max_completion_length` (Dr. GRPO, arXiv 2503.20783, section 3.2).
        num_tokens: for "dapo" when the step is split into several batches; None counts those of `mask`.

    Raises:
        ValueError: shapes that do not fit, no token at all, or "dr_grpo" without its constant.
    """
    _choice("loss_type", loss_type, LOSS_TYPES)
    if mask.dim() != 2 or _shape(values) not in {_shape(mask), (len(mask), 1)}:
        raise ValueError(
            f"values {_shape(values)} and mask {_shape(mask)}: needed are (completions, tokens or 1) and "
            "(completions, tokens)"
        )
    if not mask.any():
        raise ValueError(f"the mask of shape {_shape(mask)} is 0 everywhere: no token is left to learn from")
    masked = values * mask
    if loss_type == "grpo":
        return (masked.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
    if loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < mask.shape[1]:
            raise ValueError(
                f"max_completion_length={max_completion_length} for a mask of shape {_shape(mask)}; dr_grpo divides "
                "by the length that sampling was limited to, which is at least that of the mask"
            )
        return masked.sum() / (len(mask) * max_completion_length)
    if loss_type == "bnpo" or num_tokens is None:
        return masked.sum() / mask.sum()
    if num_tokens < 1:
        raise ValueError(f"num_tokens={num_tokens} for a mask of shape {_shape(mask)}; a step has at least one token")
    return masked.sum() / num_tokens


def grpo_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    ref_logps: torch.Tensor | None = None,
    beta: float = 0.0,
    correct_kl: bool = True,
    epsilon_low: float = 0.2,
    epsilon_high: float | None = None,
    level: str = "token",
    loss_type: str = "dapo",
    max_completion_length: int | None = None,
    num_tokens: float | None = None,
) -> torch.Tensor:
    """The loss that TRL's GRPOTrainer minimises, from log-probabilities and advantages.

    Args:
        logps: (B, T), the policy's, with gradients.
        old_logps: (B, T), those of the policy that sampled; `logps.detach()` in the first pass over a batch.
        advantages: (B,).
        mask: (B, T), 1 for tokens of the completion, 0 after its end.
        ref_logps: (B, T), the reference's; needed when `beta` is not 0.
        correct_kl: weigh the KL estimate with the ratio, TRL's default (DeepSeek-V3.2, arXiv 2512.02556);
            False is DeepSeekMath's form.

    Returns:
        A scalar to minimise.

    Raises:
        ValueError: shapes that do not fit, or `beta` without a reference.
    """
    _same_shape(logps=logps, old_logps=old_logps, mask=mask)
    ratio = log_ratio(logps, old_logps, mask, level).exp()
    loss = -clipped_objective(ratio, advantages, epsilon_low, epsilon_high)
    if beta != 0:
        if ref_logps is None:
            raise ValueError(f"beta={beta} needs ref_logps of shape {_shape(logps)}, the reference's log-probabilities")
        kl = kl_estimate(logps, ref_logps)
        loss = loss + beta * (kl * ratio if correct_kl else kl)
    return aggregate(loss, mask, loss_type, max_completion_length, num_tokens)
