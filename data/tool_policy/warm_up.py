"""Show the tiny policy two tools, and save it beside this file: the policy of notebook 11.

    python data/tool_policy/warm_up.py            (WARMUP_TIME on one core)

From `data/tiny_policy`, on demonstrations that notebook 11 defines and shows: a
quarter of the products are calculated with a call, the others answered at once
with the right number, whatever their size; one in four games does
not listen to what was told, in the others guesses are drawn from what is left. What
comes back from a tool is never learned.
"""

from __future__ import annotations

import argparse
import random
import sys
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


def own_turns(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], turns: list[Message]) -> list[tuple[str, str]]:
    """Of each turn of the policy: what stands before it, and what it writes."""
    found = []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = tokenizer.apply_chat_template(prompt + turns[:i], tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(prompt + turns[: i + 1], tokenize=False)
            found.append((before, after.removeprefix(before).removesuffix("\n")))
    return found


def demonstrations(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, questions: int, games: int
) -> list[tuple[str, str]]:
    """All turns of the replies to `questions`, and one turn of each of `games`."""
    found = []
    for _ in range(questions):
        row = taught.question(rng, rng.choices(list(taught.SIZES), weights=WEIGHTS)[0])
        found += own_turns(tokenizer, row["prompt"], taught.worked_example(rng, row))
    for _ in range(games):
        secret, listens = rng.randint(1, taught.HIGHEST), rng.random() < LISTENING
        found.append(rng.choice(own_turns(tokenizer, taught.GAME, taught.game_shown(rng, secret, listens))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=12_000)
    parser.add_argument("--games", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    torch.set_num_threads(1)  # several would add up in another order on another machine
    torch.manual_seed(pretrain.SEED)
    rng = random.Random(pretrain.SEED)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = taught.CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").train()
    before, after = zip(*demonstrations(tokenizer, rng, args.questions, args.games), strict=True)
    corpus = [pretrain.encode(tokenizer, list(texts)) for texts in (before, after)]
    pretrain.learn("warm-up", model, list(zip(*corpus, strict=True)), args.batch, 1e-3, rng)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.output)
    pretrain.save(model, args.output)


if __name__ == "__main__":
    main()
