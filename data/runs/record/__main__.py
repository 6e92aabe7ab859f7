"""`python data/runs/record NAME --profile P`: run an experiment and record it in data/runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parent)]  # where grpo_helpers is, and this folder as a package

from grpo_helpers.__main__ import exit_code  # noqa: E402
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

    def job() -> None:
        print(f"recorded in {record(args.name, get_profile(args.profile), args.seed, args.output.expanduser())}")

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
