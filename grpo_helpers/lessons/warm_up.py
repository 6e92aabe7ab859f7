"""Supervised warm-up: a policy is shown a few demonstrations before GRPO, so that it does the right thing sometimes."""

from __future__ import annotations

import tempfile

import pandas as pd
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..training import machine_options, repeatable


def warm_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Dataset,
    *,
    epochs: float = 3,
    learning_rate: float = 1e-3,
    batch: int = 16,
    seed: int = 42,
    lora: LoraConfig | None = None,
) -> pd.DataFrame:
    """Train `model` in place to give the completions of `demonstrations`, with TRL's SFTTrainer.

    Only completion tokens count in the loss; the learning rate falls linearly to 0.

    Args:
        demonstrations: columns `prompt` and `completion`, both lists of messages.
        epochs: how often each demonstration is read.
        batch: demonstrations in an optimizer step.
        lora: train these adapters and fold them into the weights; None trains every weight, for float32 models only.

    Returns:
        The log, a row for each step: step, loss (nats per token), mean_token_accuracy (0 to 1), …

    Raises:
        ValueError: a column is missing, or every weight of a half-precision model would be trained.
    """
    if missing := {"prompt", "completion"} - set(demonstrations.column_names):
        raise ValueError(f"the demonstrations have no column {sorted(missing)}, only {demonstrations.column_names}")
    if lora is None and model.dtype != torch.float32:
        raise ValueError(f"the weights are {model.dtype}; pass lora=models.lora_config(profile), or load float32")
    options = machine_options(model.dtype)
    options |= {"num_train_epochs": epochs, "learning_rate": learning_rate, "per_device_train_batch_size": batch}
    options |= {"activation_checkpointing": False, "save_strategy": "no", "seed": seed}
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder, repeatable():
        args = SFTConfig(output_dir=folder, **options)
        trainer = SFTTrainer(model, args, train_dataset=demonstrations, processing_class=tokenizer, peft_config=lora)
        enable_progress_bars()
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if lora is not None:
        trainer.model.merge_and_unload().requires_grad_(True)  # plain layers again, in `model` itself
    model.eval().config.use_cache = True
    return pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
