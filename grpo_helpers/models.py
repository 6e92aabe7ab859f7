"""From a profile to a policy: find the weights, load them in the right precision, add LoRA."""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .machine import check_gpu, resolve_dtype
from .pretrained import find_weights, quiet
from .profiles import Profile
from .prompts import build_messages

# PEFT and TRL ask transformers by old names: once for every model, and twice a step where layers are recomputed.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)

# In Jinja, before a template that takes no system message: its text becomes the head of the first question.
FOLD = """{%- if messages|length > 1 and messages[0].role == 'system' and messages[1].role == 'user' -%}
{%- set head = messages[0].content + '\n\n' + messages[1].content -%}
{%- set messages = [{'role': 'user', 'content': head}] + messages[2:] -%}{%- endif -%}"""


def fit_template(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> None:
    """Have the chat template write every prompt alike, whoever asks: training, evaluation, a probe, a notebook.

    Its `arguments`, as {"enable_thinking": False}, become part of it. Where it refuses or drops a system message, the
    text is folded into the first question, and that is said. If there is none that can be used it is a ValueError.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template, so this is no chat model; take its -Instruct variant")
    given, said, chat = tokenizer.get_chat_template(), "no question in it", build_messages("one question", "one rule")
    fixed = "".join(f"{{%- set {name} = {value!r} -%}}" for name, value in (arguments or {}).items())
    for before in (fixed, fixed + FOLD):
        try:
            text = tokenizer.apply_chat_template(chat, chat_template=before + given, tokenize=False)
            if "one question" in text and "one rule" in text:
                break
        except Exception as error:  # what a template may raise is up to it
            said = f"{type(error).__name__}: {error}"
    else:
        raise ValueError(f"the tokenizer's chat template cannot be used ({said}); set another: tokenizer.chat_template")
    if before != fixed:
        print("the chat template takes no system message: the system text is put at the head of the first question")
    if before:
        tokenizer.chat_template = before + given


def end_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a turn: the tokenizer's own first, then what else the model's generation settings name."""
    named = causal_lm(model).generation_config.eos_token_id
    ids = (tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]))
    return list(dict.fromkeys(i for i in ids if i is not None))


def check_ends(tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Refuse (ValueError) a policy without an end token; say so when its template ends a reply with none of `ends`."""
    if not ends:
        raise ValueError("no token ends a turn: set eos_token in the model's tokenizer_config.json")
    chat = [*build_messages("one question"), {"role": "assistant", "content": "one reply"}]
    closing = tokenizer.apply_chat_template(chat, tokenize=False).rpartition("one reply")[2]
    if not set(ends).intersection(tokenizer(closing, add_special_tokens=False)["input_ids"]):
        print(f"the template ends a reply with {closing!r}, the policy with {tokenizer.convert_ids_to_tokens(ends)}:")
        print("replies may all run to the length limit; set eos_token to what ends a turn")


def check_targets(model: torch.nn.Module, targets: Collection[str]) -> None:
    """Refuse (ValueError) LoRA targets that match no layer of `model`; PEFT skips them as long as one matches."""
    names = [f".{name}" for name, _ in model.named_modules()]
    if missing := [target for target in targets if not any(name.endswith(f".{target}") for name in names)]:
        linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        remedy = f"choose from its linear layers, {linear}: profile.with_(lora_targets=...)"
        raise ValueError(f"LoRA targets {missing} match no layer of this model; {remedy}")


def load_policy(profile: Profile) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained policy of a profile and its tokenizer, on the best device here.

    Without weights it is WeightsNotFound, on a GPU that torch has no kernels for UnusableGPU; with some of the weights,
    another model's tokenizer, or no usable chat template, end token or LoRA target, a ValueError.
    """
    check_gpu()
    folder = find_weights(profile.model, profile.revision).folder
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        options = {"dtype": resolve_dtype(profile), "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, loaded = AutoModelForCausalLM.from_pretrained(folder, **options)
    if random := sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]])):
        what = f"{folder} lacks {len(random)} weights of its model, or has them in another shape: {random[0]}, ..."
        raise ValueError(f"{what}; they would be random, so take a folder with config and weights of one whole model")
    ends = end_ids(model, tokenizer)
    known, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if known > rows:
        raise ValueError(f"the tokenizer has {known} tokens, the model {rows}; take both from the same model")
    fit_template(tokenizer, profile.chat_template_kwargs)
    check_ends(tokenizer, ends)
    check_targets(model, profile.lora_targets)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token_id = ends[0]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # A model's own settings (Qwen2.5 ships a repetition penalty and top-p) would bend what we sample and measure.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def lora_config(profile: Profile) -> LoraConfig:
    """LoRA as the profile has it (Hu et al. 2021, arXiv 2106.09685): W + alpha/rank · B·A."""
    return LoraConfig(
        r=profile.lora_rank,
        lora_alpha=profile.lora_alpha,
        target_modules=list(profile.lora_targets),
        lora_dropout=profile.lora_dropout,
        task_type="CAUSAL_LM",
    )


def causal_lm(model: torch.nn.Module) -> PreTrainedModel:
    """The causal LM inside a PEFT wrapper, adapters included."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextlib.contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside a `with` block, afterwards the old mode: by that TRL tells what to log as training."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
