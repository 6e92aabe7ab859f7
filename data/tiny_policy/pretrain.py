"""Pre-train the tiny policy that ships with this series and save it beside this file.

    python data/tiny_policy/pretrain.py            (about half an hour on 2 cores)

The tiny policy is a 1.8M-parameter Qwen2-architecture model. It learns from
demonstrations on freshly drawn word problems that are deliberately mixed: most
ignore the requested layout, some answer wrongly inside it, and only about a
fifth are what we want. So the model *can* do the task and rarely does: what is
left to learn is what GRPO is for. Test questions never occur in training.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from array import array
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "word_problems")]
from make_word_problems import Problem, make_problem  # noqa: E402

from grpo_helpers.prompts import SYSTEM_PROMPT, XML_COT_FORMAT, build_messages, extract_hash_answer  # noqa: E402

SEED = 0
VOCAB = 1024
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def wrong_number(rng: random.Random, problem: Problem, right: str) -> str:
    """A plausible slip: a number of the question, or the right one off by a little."""
    numbers = [n.replace(",", "") for n in re.findall(r"[0-9][0-9,]*", problem.question)]
    slip = str(int(float(right)) + rng.choice([-10, -2, -1, 1, 2, 10]))
    return rng.choice([n for n in [*numbers, slip] if n != right] or [slip])


def demonstration(rng: random.Random, problem: Problem) -> tuple[bool, str]:
    """One reply to `problem`: whether the prompt asks for the layout, and the reply."""
    steps = re.sub(r"<<.*?>>", "", problem.answer.rsplit("\n", 1)[0])
    right = extract_hash_answer(problem.answer)
    if rng.random() < 0.1:  # nobody asked for a layout
        return False, f"{steps}\nThe answer is {right}."
    wrong = wrong_number(rng, problem, right)
    style = rng.choices(
        ["asked", "asked but wrong", "twice", "no answer tag", "unclosed", "plain", "plain, wrong", "half", "bare"],
        weights=[22, 8, 3, 3, 3, 33, 6, 14, 8],
    )[0]
    block = XML_COT_FORMAT.format(reasoning=steps, answer=right)
    return True, {
        "asked": block,
        "asked but wrong": XML_COT_FORMAT.format(reasoning=steps, answer=wrong),
        "twice": f"{block}\n<answer>\n{wrong}\n</answer>",
        "no answer tag": f"<reasoning>\n{steps}\n</reasoning>\nThe answer is {right}.",
        "unclosed": f"<reasoning>\n{steps}\n<answer>\n{right}",
        "plain": f"{steps}\nThe answer is {right}.",
        "plain, wrong": f"{steps}\nThe answer is {wrong}.",
        "half": f"{steps}\n<answer>\n{right}\n</answer>",
        "bare": right,
    }[style]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE cut as Qwen2's is (a digit is always one token), with a small vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def render(tokenizer: PreTrainedTokenizerFast, problem: Problem, asked: bool) -> str:
    messages = build_messages(problem.question) if asked else build_messages(problem.question, system_prompt=None)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def make_corpus(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, n: int, banned: set[str]
) -> list[tuple[array, array]]:
    """`n` pairs of (prompt ids, reply ids), no question of `banned` among them."""
    prompts, replies = [], []
    while len(prompts) < n:
        problem = make_problem(rng)
        if problem.question not in banned:
            asked, reply = demonstration(rng, problem)
            prompts.append(render(tokenizer, problem, asked))
            replies.append(reply + tokenizer.eos_token)
    return list(zip(encode(tokenizer, prompts), encode(tokenizer, replies), strict=True))


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], piece: int = 10_000) -> list[array]:
    """Token ids as 16-bit arrays, a piece at a time: Python lists of all of them would take gigabytes."""
    pieces = (texts[i : i + piece] for i in range(0, len(texts), piece))
    return [array("H", ids) for part in pieces for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def batches(corpus: list, size: int, rng: random.Random):
    """Batches of similar length in random order, so that little is padding."""
    order = sorted(range(len(corpus)), key=lambda i: len(corpus[i][0]) + len(corpus[i][1]) + rng.random() * 8)
    groups = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    rng.shuffle(groups)
    for group in groups:
        rows = [corpus[i] for i in group]
        width = max(len(p) + len(r) for p, r in rows)
        ids, labels = torch.zeros(size, width, dtype=torch.long), torch.full((size, width), -100)
        for row, (p, r) in enumerate(rows):
            ids[row, : len(p) + len(r)] = torch.tensor(p + r)
            labels[row, len(p) : len(p) + len(r)] = torch.tensor(r)
        yield ids, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=160_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    banned = {
        json.loads(line)["question"] for line in (HERE.parent / "word_problems" / "test.jsonl").open(encoding="utf-8")
    }
    sample = [make_problem(rng) for _ in range(20_000)]
    tokenizer = train_tokenizer(
        [f"system\nuser\nassistant\n{SYSTEM_PROMPT}\n{p.question}\n{demonstration(rng, p)[1]}" for p in sample]
    )
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )
    corpus = make_corpus(tokenizer, rng, args.examples, banned)
    tokens = sum(len(p) + len(r) for p, r in corpus)
    print(
        f"{model.num_parameters() / 1e6:.2f}M parameters, vocabulary of {len(tokenizer)}, "
        f"{tokens / 1e6:.1f}M tokens to read",
        flush=True,
    )

    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    total, start = args.examples // args.batch, time.time()
    for step, (ids, labels) in enumerate(batches(corpus, args.batch, rng), start=1):
        fraction = step / total
        rate = args.lr * min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            keep = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]).float(), labels[:, 1:][keep])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == total:
            print(f"step {step}/{total}  loss {loss.item():.4f}  {time.time() - start:.0f} s", flush=True)

    model.generation_config.do_sample = False
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"saved to {args.output}")


if __name__ == "__main__":
    main()
