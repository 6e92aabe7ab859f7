"""Train a language model with GRPO and show what it learned: `python -m grpo_helpers`.

what happens
  1. a profile is chosen: model, task and sizes that fit this machine
  2. the untrained policy answers held-out questions
  3. GRPO: for each question the policy samples a group of completions; reward
     functions score them; each completion's advantage is its reward relative
     to its group; the LoRA adapter moves towards the better ones
  4. the trained policy answers the same held-out questions
  5. tables, figures, predictions and the adapter are in outputs/<profile>-<seed>/

ends with
  0 finished · 2 an error, named · 3 the doctor stopped a run that could not learn · 130 Ctrl-C

examples
  python -m grpo_helpers                              the best profile for this machine
  python -m grpo_helpers --profile tiny --seed 1
  python -m grpo_helpers --profile tiny --steps 200 --resume
  python -m grpo_helpers --profile small --model path/to/a/chat/model
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from .hosted import use_one_gpu
from .profiles import PROFILES

LIST = "\n".join(["profiles", *(f"  {name:8} {profile.about}" for name, profile in PROFILES.items())])
EXIT_CODES = {"finished": 0, "stopped by the doctor": 3, "interrupted": 130}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m grpo_helpers", description=__doc__, epilog=LIST, formatter_class=layout)
    parser.add_argument("--profile", help="one of those below; default: what fits this machine")
    parser.add_argument("--model", help="a chat model's hub name or folder, in place of the profile's")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the profile's")
    parser.add_argument("--seed", type=int, default=42, help="of data order, adapter and sampling (default 42)")
    parser.add_argument("--output", help="folder for everything; default outputs/<profile>-<seed>")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint in --output")
    parser.add_argument("--no-doctor", action="store_true", help="go on even if the doctor says it cannot learn")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="GSM8K's train.jsonl and test.jsonl, instead of the hub's")
    parser.add_argument("--record", action="store_true", help="keep history, tables and replies in data/runs too")
    return parser.parse_args(argv)


def exit_code(job: Callable[[], int | None]) -> int:
    """What `job` returns, or 0; 2 after an error that names the mistake, 130 after Ctrl-C, with one sentence each."""
    try:
        return job() or 0
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped by Ctrl-C; start again, with --resume if a run had begun'}", file=sys.stderr)
        return 130
    except Exception as error:
        from torch import OutOfMemoryError

        from .machine import UnusableGPU
        from .pretrained import WeightsNotFound

        if isinstance(error, OutOfMemoryError):
            print("choose a smaller profile (GRPO_PROFILE), or free the GPU and --resume", file=sys.stderr)
        elif not isinstance(error, ValueError | OSError | WeightsNotFound | UnusableGPU):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def start(args: argparse.Namespace) -> int:
    use_one_gpu()
    import matplotlib

    matplotlib.use("Agg")
    from .machine import detect
    from .profiles import get_profile
    from .run import output_folder, record, record_folder, run

    profile = get_profile(args.profile) if args.profile else detect()
    if args.model:
        about = f"{args.model} in place of the profile's model"
        profile = profile.with_(model=args.model, revision=None, about=about)
    if args.steps is not None:
        profile = profile.with_(steps=args.steps, minutes=profile.minutes * args.steps / profile.steps)
    output = output_folder(profile, args.seed, args.output)
    if args.record:
        record_folder(output)
    outcome = run(profile, args.seed, output, args.resume, args.gsm8k, not args.no_doctor)
    if args.record and outcome.finished:
        print(f"recorded in {record(output)}")
    return EXIT_CODES[outcome.how]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(lambda: start(args))


if __name__ == "__main__":
    sys.exit(main())
