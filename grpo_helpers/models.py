"""From a profile to a policy: find the weights, load them in the right precision, add LoRA."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .machine import check_gpu, resolve_dtype
from .pretrained import find_weights, quiet
from .profiles import Profile

# PEFT and TRL ask transformers by old names: once for every model, and twice a step where layers are recomputed.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)


def load_policy(profile: Profile) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained policy of a profile and its tokenizer, on the best device here.

    Raises:
        WeightsNotFound: the weights cannot be had.
        ValueError: the tokenizer has no chat template.
        UnusableGPU: this torch has no kernels for the GPU.
    """
    check_gpu()
    folder = find_weights(profile.model, profile.revision).folder
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=resolve_dtype(profile))
    if tokenizer.chat_template is None:
        raise ValueError(f"{profile.model!r} has no chat template, so it is no chat model; take its -Instruct variant")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # A model's own settings (Qwen2.5 ships a repetition penalty and top-p) would bend what we sample and measure.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def lora_config(profile: Profile) -> LoraConfig:
    """LoRA as the profile has it (Hu et al. 2021, arXiv 2106.09685): W + alpha/rank · B·A."""
    return LoraConfig(
        r=profile.lora_rank,
        lora_alpha=profile.lora_alpha,
        target_modules=list(profile.lora_targets),
        lora_dropout=profile.lora_dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


def causal_lm(model: torch.nn.Module) -> PreTrainedModel:
    """The causal LM inside a PEFT wrapper, adapters included."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextlib.contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Afterwards the model is in the mode it was in: by it TRL tells what to log as training."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
