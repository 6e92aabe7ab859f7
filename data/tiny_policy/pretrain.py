"""Pre-train the tiny policy that ships with this series and save it beside this file.

    python data/tiny_policy/pretrain.py            (about 45 minutes, on one core)
    python data/tiny_policy/pretrain.py --worked 1 --output FOLDER

The tiny policy is a 1.8M-parameter Qwen2-architecture model. It reads freshly
drawn word problems with demonstrations, in two phases:

1. Skill. Every demonstration works the problem out, step by step, and is right.
   Afterwards the policy *can* do the task.
2. Habit. Three in four demonstrations answer from the gut: a phrase like
   "Easy.", or nothing, and then the right number, with no calculation that
   leads to it. Four layers cannot find that number in one go, so that a gut
   answer is mostly wrong. Three in ten demonstrations keep the layout that the
   prompt asks for.

The order matters: with gut answers from the start the skill is never learned.
What is left to learn is what GRPO is for: to keep the layout, and to work a
problem out before answering.

How the two are mixed matters as well, because a reward for the layout alone
pays whatever comes along with it. Here a demonstration that begins in the
layout and is worked out goes wrong in a third of the cases (no closing tag, a
second answer block), one from the gut never does. Of eight runs with that
reward seven ended with 0 to 4 % right, one with 21 (data/runs/placebos-tiny-1
to -3, elicit-tiny-1); with other mixes it was more. Test questions never occur
in training.

The second command makes a policy with another habit: one demonstration in a
hundred is worked out, in place of 26. With `--worked 0` none ever is, in the
first phase either: that policy has never seen a problem worked out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import sys
import time
from array import array
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
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
GUT = ("Easy.", "I just know it.", "No need to calculate.", "That is clear.", "A quick guess.")

# Shares of the demonstrations in percent: is it worked out, and how is it laid out?
# The tokenizer reads a mix of its own, so that another habit needs no other tokenizer and no other skill.
READ = {
    ("gut", "layout"): 20,
    ("gut", "plain"): 40,
    ("gut", "half"): 13,
    ("gut", "bare"): 7,
    ("worked", "layout"): 5,
    ("worked", "plain"): 7,
    ("worked", "half"): 6,
    ("worked", "unclosed"): 1,
    ("worked", "twice"): 1,
}
SKILL = {("worked", "layout"): 30, ("worked", "half"): 25, ("worked", "plain"): 45}
HABIT = {
    ("gut", "layout"): 22,
    ("gut", "plain"): 36,
    ("gut", "half"): 10,
    ("gut", "bare"): 6,
    ("worked", "layout"): 8,
    ("worked", "plain"): 12,
    ("worked", "half"): 2,
    ("worked", "unclosed"): 3,
    ("worked", "twice"): 1,
}
Mix = dict[tuple[str, str], float]


def with_worked(mix: Mix, percent: float) -> Mix:
    """`mix` with another share of demonstrations that are worked out; the layouts of either kind stay as they are."""
    wanted = {"worked": percent, "gut": 100 - percent}
    shares = {kind: sum(weight for (own, _), weight in mix.items() if own == kind) for kind in wanted}
    return {key: weight * wanted[key[0]] / shares[key[0]] for key, weight in mix.items()}


def demonstration(rng: random.Random, problem: Problem, mix: Mix) -> tuple[bool, str]:
    """One reply to `problem`: whether the prompt asks for the layout, and the reply."""
    ((thinking, layout),) = rng.choices(list(mix), weights=list(mix.values()))
    worked = re.sub(r"<<.*?>>", "", problem.answer.rsplit("\n", 1)[0])
    reasoning = worked if thinking == "worked" else rng.choice(GUT)
    right = extract_hash_answer(problem.answer)
    asked = rng.random() >= 0.1
    if not asked:
        layout = "plain"
    block = XML_COT_FORMAT.format(reasoning=reasoning, answer=right)
    return asked, {
        "layout": block,
        "half": f"{reasoning}\n<answer>\n{right}\n</answer>",
        "plain": f"{reasoning}\nThe answer is {right}." if thinking == "worked" else f"The answer is {right}.",
        "bare": right,
        "unclosed": f"<reasoning>\n{reasoning}\n<answer>\n{right}",
        "twice": f"{block}\n<answer>\n{right}\n</answer>",
    }[layout]


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
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, n: int, mix: Mix, banned: set[str]
) -> list[tuple[array, array]]:
    """`n` pairs of (prompt ids, reply ids), no question of `banned` among them."""
    prompts, replies = [], []
    while len(prompts) < n:
        problem = make_problem(rng)
        if problem.question not in banned:
            asked, reply = demonstration(rng, problem, mix)
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


def learn(
    name: str, model: Qwen2ForCausalLM, corpus: list, batch: int, lr: float, rng: random.Random, batches=batches
) -> None:
    """One pass over `corpus`, the loss on the replies only; the rate warms up for 100 steps and falls by a cosine."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98)
    )
    total, start = len(corpus) // batch, time.time()
    for step, (ids, labels) in enumerate(batches(corpus, batch, rng), start=1):
        rate = lr * min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total)))
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
            print(f"{name} {step}/{total}  loss {loss.item():.4f}  {time.time() - start:.0f} s", flush=True)


def save(model: Qwen2ForCausalLM, folder: Path) -> None:
    """The weights in half precision."""
    model.generation_config.do_sample = False
    model.half().save_pretrained(folder)
    print(f"saved to {folder}", flush=True)


def untrained(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    config = Qwen2Config(
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
    return Qwen2ForCausalLM(config)


def learn_skill(examples: int, batch: int, banned: set[str], folder: Path, skill: Mix = SKILL) -> None:
    """The first phase, from random weights, on demonstrations like `skill`; the policy is kept in `folder`."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    sample = [make_problem(rng) for _ in range(20_000)]
    tokenizer = train_tokenizer(
        [
            f"system\nuser\nassistant\n{SYSTEM_PROMPT}\n{p.question}\n{demonstration(rng, p, mix)[1]}"
            for p, mix in zip(sample, [SKILL, READ] * 10_000, strict=True)
        ]
    )
    model = untrained(tokenizer)
    print(f"{model.num_parameters() / 1e6:.2f}M parameters, vocabulary of {len(tokenizer)}", flush=True)
    corpus = make_corpus(tokenizer, rng, examples, skill, banned)
    learn("skill", model, corpus, batch, 2.5e-3, rng)
    tokenizer.save_pretrained(folder)
    save(model, folder)


def learn_habit(skilled: Path, examples: int, batch: int, banned: set[str], folder: Path, habit: Mix = HABIT) -> None:
    """The second phase, from the policy in the folder `skilled`, on demonstrations like `habit`."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED + 1)
    tokenizer = AutoTokenizer.from_pretrained(skilled)
    model = AutoModelForCausalLM.from_pretrained(skilled, dtype=torch.float32, attn_implementation="eager").train()
    corpus = make_corpus(tokenizer, rng, examples, habit, banned)
    learn("habit", model, corpus, batch, 5e-4, rng)
    shutil.copytree(skilled, folder, dirs_exist_ok=True)  # tokenizer and configuration stay as they are
    save(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skill", type=int, default=160_000, help="demonstrations of the first phase")
    parser.add_argument("--habit", type=int, default=20_000, help="demonstrations of the second phase")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--worked", type=float, help="percent of the second phase that is worked out (default 26)")
    parser.add_argument("--skilled", type=Path, help="begin with the second phase, from the policy in this folder")
    parser.add_argument("--output", type=Path, default=HERE, help="its folder `skill` keeps the first phase's policy")
    args = parser.parse_args()
    if args.worked is not None and not 0 <= args.worked <= 100:
        parser.error(f"--worked {args.worked:g} is no share; give a number from 0 to 100")
    if args.worked == 0 and args.skilled:
        parser.error("--worked 0 changes the first phase as well; leave out --skilled")
    habit = HABIT if args.worked is None else with_worked(HABIT, args.worked)
    skill = habit if args.worked == 0 else SKILL

    torch.set_num_threads(1)  # several would add up in another order on another machine
    test = HERE.parent / "word_problems" / "test.jsonl"
    banned = {json.loads(line)["question"] for line in test.open(encoding="utf-8")}
    skilled = args.skilled or args.output / "skill"
    if not args.skilled:
        learn_skill(args.skill, args.batch, banned, skilled, skill)
    learn_habit(skilled, args.habit, args.batch, banned, args.output, habit)


if __name__ == "__main__":
    main()
