"""What an update of a policy allocates: the libraries' own code on fake tensors, which have a shape and no data."""

import weakref
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob

from grpo_helpers import models
from grpo_helpers.lessons import memory

from .cells import definitions

qwen_config = definitions("04_lora_and_memory", "qwen_config").qwen_config


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


def meta_policy(config, profile):
    """A policy with the profile's adapters and no weights at all."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, profile.dtype))
        policy = get_peft_model(model, models.lora_config(profile)).train()
    if profile.checkpointing:
        policy.get_base_model().activation_checkpointing_enable()
        policy.get_base_model().enable_input_require_grads()
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


# TRL's kernels for GPUs work inside a tile that exists already, so here they do nothing.
IN_PLACE = dict.fromkeys(("_forward_tile", "_backward_tile", "_addmm_fp32"), lambda *args, **kwargs: None)


def traced_update_gb(profile, layers):
    """GB at the peak of an update of Qwen2.5-1.5B with so many layers, beyond what weights and adapters need."""
    policy = meta_policy(qwen_config(layers), profile)
    with FakeTensorMode(), Living() as living, patch.multiple(chunked_logprob, **IN_PLACE):
        make_fake(policy)
        before = living.now
        update(policy, profile)
    return (living.peak - before) / 1e9
