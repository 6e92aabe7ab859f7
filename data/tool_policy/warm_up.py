"""Show the tiny policy two tools, and save it beside this file: the policy of notebook 11.

    python data/tool_policy/warm_up.py            (about eight minutes on one core)

From `data/tiny_policy`, on demonstrations that notebook 11 defines and shows: a
quarter of the products are calculated with a call, the others answered at once
with the right number, whatever their size; one in four games does not listen to
what was told, in the others guesses are drawn from what is left. What comes back
from a tool is never learned.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "tiny_policy"
sys.path[:0] = [str(HERE.parents[1]), str(TINY)]
import pretrain  # noqa: E402

from tests.cells import definitions  # noqa: E402

NAMES = ("CHAT_TEMPLATE", "SIZES", "question", "worked_example", "GAME", "HIGHEST", "game_shown")
taught = definitions("11_tools_and_turns", *NAMES)
WEIGHTS = (4, 3, 2, 2)  # of the sizes: the table that is known by heart needs practice
LISTENING = 0.75  # share of the games whose guesses are drawn from what is left

Message = dict[str, object]
Tokens = tuple[list[int], list[int]]  # of a conversation: ids, and as labels, -100 where the policy did not write


def labelled(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], turns: list[Message]) -> Tokens:
    """A conversation as the policy would see and write it, a piece at a time."""
    ids, labels, text = [], [], ""

    def add(until: str, own: bool) -> str:
        piece = tokenizer(until.removeprefix(text), add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        labels.extend(piece if own else [-100] * len(piece))
        return until

    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            ahead = tokenizer.apply_chat_template(prompt + turns[:i], tokenize=False, add_generation_prompt=True)
            text = add(ahead, own=False)
            written = tokenizer.apply_chat_template(prompt + turns[: i + 1], tokenize=False).removesuffix("\n")
            text = add(written, own=True)
    return ids, labels


def demonstrations(tokenizer: PreTrainedTokenizerBase, rng: random.Random, questions: int, games: int) -> list[Tokens]:
    found = []
    for _ in range(questions):
        row = taught.question(rng, rng.choices(list(taught.SIZES), weights=WEIGHTS)[0])
        found.append(labelled(tokenizer, row["prompt"], taught.worked_example(rng, row)))
    for _ in range(games):
        secret, listens = rng.randint(1, taught.HIGHEST), rng.random() < LISTENING
        found.append(labelled(tokenizer, taught.GAME, taught.game_shown(rng, secret, listens)))
    return found


def batches(corpus: list[Tokens], size: int, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches in random order. Sorted by length, as `pretrain` has them, those with calls would be apart."""
    starts = list(range(0, len(corpus) - size + 1, size))
    rng.shuffle(starts)
    for start in starts:
        group = corpus[start : start + size]
        width = max(len(ids) for ids, _ in group)
        ids = [ids + [0] * (width - len(ids)) for ids, _ in group]
        labels = [labels + [-100] * (width - len(labels)) for _, labels in group]
        yield torch.tensor(ids), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=12_800)
    parser.add_argument("--games", type=int, default=9_600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    torch.set_num_threads(1)  # several would add up in another order on another machine
    torch.manual_seed(pretrain.SEED)
    rng = random.Random(pretrain.SEED)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = taught.CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").train()
    corpus = demonstrations(tokenizer, rng, args.questions, args.games)
    pretrain.learn("warm-up", model, corpus, args.batch, 1e-3, rng, batches)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.output)
    pretrain.save(model, args.output)


if __name__ == "__main__":
    main()
