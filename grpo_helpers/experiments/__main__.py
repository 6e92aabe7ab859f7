"""`python -m grpo_helpers.experiments NAME --profile P`: run an experiment and record it in data/runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..pretrained import WeightsNotFound
from ..profiles import PROFILES, get_profile
from ..records import RUNS
from . import EXPERIMENTS, record


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m grpo_helpers.experiments", description="Run an experiment and record it in data/runs."
    )
    parser.add_argument("name", choices=list(EXPERIMENTS))
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
