"""`python data/runs/record NAME --profile P`: run an experiment and record it in data/runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parent)]  # where grpo_helpers is, and this folder as a package

from grpo_helpers.pretrained import WeightsNotFound  # noqa: E402
from grpo_helpers.profiles import PROFILES, get_profile  # noqa: E402
from grpo_helpers.records import RUNS  # noqa: E402
from record import RECORDERS, record  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python data/runs/record", description="Run an experiment and record it in data/runs."
    )
    parser.add_argument("name", choices=list(RECORDERS))
    parser.add_argument("--profile", default="small", choices=list(PROFILES))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=RUNS, help="folder to record in (default data/runs)")
    args = parser.parse_args(argv)

    try:
        target = record(args.name, get_profile(args.profile), args.seed, args.output)
    except (ValueError, OSError, WeightsNotFound) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"recorded in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
