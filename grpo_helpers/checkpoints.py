"""The checkpoints of a run: found, and known to be whole before anything is resumed from them."""

import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .files import read_json


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when it is whole.

    A process killed while saving leaves files missing or cut off. The state is written last, the others are opened.
    """
    checkpoint, name = Path(checkpoint), "trainer_state.json"
    try:
        sum(row["step"] for row in read_json(checkpoint / name, global_step=int, log_history=list)["log_history"])
        name = "adapter_model.safetensors"
        with safe_open(checkpoint / name, framework="pt") as weights:
            weights.keys()
        scaler = ["scaler.pt"] if (checkpoint / "scaler.pt").exists() else []  # written in float16 only
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", *scaler):
            with zipfile.ZipFile(checkpoint / name) as archive:
                if (bad := archive.testzip()) is not None:
                    return f"{name} is damaged at {bad}"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{name}: {type(error).__name__}: {error}"
    return None


def found(output_dir: str | Path) -> list[tuple[int, Path]]:
    """(steps taken, folder) of what was saved under `output_dir`, whole or not."""
    named = [(p.name.removeprefix("checkpoint-"), p) for p in Path(output_dir).glob("checkpoint-*")]
    return [(int(steps), p) for steps, p in named if steps.isdecimal()]


def latest(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint under `output_dir`, or None; says which damaged ones it passes over."""
    for _, folder in sorted(found(output_dir), reverse=True):
        if not (problem := damage(folder)):
            return folder
        print(f"{folder.name} is not whole ({problem}); looking for an older one")
    return None
