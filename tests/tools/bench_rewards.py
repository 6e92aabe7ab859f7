"""How fast the rewards are: hostile megabytes, and 100,000 ordinary completions (part of `make bench`).

1. Seconds for one completion of 1,000,000 characters made to be slow to read,
   the worst of several, for each reward function.
2. Ordinary completions a second, for each reward function and for all five.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from pathlib import Path

from grpo_helpers.files import write_json
from grpo_helpers.prompts import XML_COT_FORMAT
from grpo_helpers.rewards import REWARD_FUNCS, TAGS

MEGA = 1_000_000
GOOD = XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72")


def hostile() -> dict[str, str]:
    """Completions of a million characters that careless patterns choke on."""
    texts = {f"{tag!r} repeated": tag * (MEGA // len(tag) + 1) for tag in (*TAGS, "<answer>72</answer>", GOOD)}
    texts |= {
        "reasoning never closed": "<reasoning>\n" + "\n" * MEGA,
        "closed again and again": "<reasoning>\n" + "</reasoning>\n<answer>\n" * (MEGA // 22),
        "white space between the blocks": GOOD.replace("\n<answer>", " " * MEGA + "x<answer>"),
        "newlines everywhere": GOOD.replace("\n", "\n" * (MEGA // 7)) + "x",
        "digits, then a letter": GOOD.replace("\n72\n", "9" * MEGA + "x"),
        "groups of three, then a letter": GOOD.replace("\n72\n", "1" + ",000" * (MEGA // 4) + "x"),
        "a million digits": GOOD.replace("\n72\n", "9" * MEGA),
    }
    return {name: text[: MEGA + 200] for name, text in texts.items()}


def ordinary(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """`n` completions as a policy writes them: in the layout, out of it, right, wrong; and their gold answers."""
    rng, texts, golds = random.Random(seed), [], []
    for _ in range(n):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        steps = "\n".join(f"{a} * {b} = {a * b} in step {i + 1}" for i in range(rng.randint(1, 8)))
        said = str(a * b + rng.choice([0, 0, 1]))
        golds.append(f"{a * b:,}")
        block = XML_COT_FORMAT.format(reasoning=steps, answer=said)
        texts.append(rng.choice([block, block, f"{steps}\nThe answer is {said}.", f"{block}\n<answer>\n7\n</answer>"]))
    return texts, golds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=100_000)
    parser.add_argument("--record", type=Path, help="also write the numbers to this JSON file")
    args = parser.parse_args()

    print("one completion of 1,000,000 characters, the worst of several:")
    texts, worst = hostile(), {}
    for func in REWARD_FUNCS:
        seconds = {}
        for name, text in texts.items():
            start = time.perf_counter()
            func(completions=[text], answer=["72"])
            seconds[name] = time.perf_counter() - start
        slowest = max(seconds, key=seconds.get)
        worst[func.__name__] = {"seconds": round(seconds[slowest], 5), "completion": slowest}
        print(f"  {func.__name__:28} {1000 * seconds[slowest]:8.2f} ms   {slowest}")

    said, golds = ordinary(args.completions)
    mean = sum(map(len, said)) / len(said)
    print(f"{len(said):,} ordinary completions of {mean:.0f} characters on average:")
    rates, total = {}, 0.0
    for func in REWARD_FUNCS:
        start = time.perf_counter()
        func(completions=said, answer=golds)
        elapsed = time.perf_counter() - start
        total += elapsed
        rates[func.__name__] = round(len(said) / elapsed)
        print(f"  {func.__name__:28} {rates[func.__name__]:10,} a second")
    rates["all five"] = round(len(said) / total)
    print(f"  {'all five':28} {rates['all five']:10,} a second")

    if args.record:
        facts = {
            "command": f"python tests/tools/bench_rewards.py --completions {args.completions}",
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
        }
        write_json(args.record, facts | {"hostile_megabyte": worst, "completions_per_second": rates})


if __name__ == "__main__":
    main()
