"""Trained adapters (<run>/adapter/, beside <run>/run.json): found, loaded, described in a model card, pushed."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import pandas as pd
from jinja2 import StrictUndefined, Template
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from .evaluation import as_percentages
from .files import read_json, write_json, write_text
from .pretrained import HUB_NAME, PACKAGE_GGUF, Weights, find_weights, fingerprint
from .profiles import DATA, Profile, output_root, without_root

CARD = Path(__file__).with_name("model_card.md")
FILES = ("adapter_model.safetensors", "adapter_config.json", "README.md")
SAME = ("task", "system_prompt", "shots")  # what an adapter learned to answer; other questions would be unfair to it


def check(folder: str | Path) -> None:
    """Refuse a folder that holds no adapter (FileNotFoundError), or half of one (ValueError)."""
    weights, config = (Path(folder) / name for name in FILES[:2])
    if not (weights.is_file() and config.is_file()):
        raise FileNotFoundError(f"{folder} holds no adapter ({FILES[1]}, {FILES[0]}); train one with `make run`")
    try:
        read_json(config, peft_type=str)
        with safe_open(weights, framework="pt"):
            pass
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the adapter in {folder} is damaged ({error}); take another, or train anew") from None


def _facts(folder: Path, profile: Profile) -> dict[str, Any] | None:
    """run.json beside a whole adapter of a finished run of this profile, else None."""
    try:
        check(folder)
        texts = dict.fromkeys(("outcome", "weights", "weights_sha256", "date"), str)
        facts = read_json(folder.parent / "run.json", profile=dict, seed=int, **texts)
    except (OSError, ValueError):
        return None
    old, new = facts["profile"], json.loads(json.dumps(profile.as_dict()))
    return facts if facts["outcome"] == "finished" and all(old.get(k) == new[k] for k in SAME) else None


def find(profile: Profile) -> Weights:
    """The newest adapter that notebook 05 or `make run` left for this profile, else the recorded one.

    One of the reader's own counts if it is whole, its run was finished, and run.json says that it was trained on the
    very weights this profile loads here. Without any it is a FileNotFoundError.
    """
    outputs = output_root()
    own = [p for start in ("notebooks/", "") for p in outputs.glob(f"{start}{profile.name}-*/adapter")]
    own.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    recorded = sorted((DATA / "runs").glob(f"{profile.name}-[0-9]*/adapter"))
    candidates = [(p, facts) for p in own + recorded if (facts := _facts(p, profile))]
    if candidates:
        weights = find_weights(profile.model, profile.revision)
        digest = fingerprint(weights.folder)
    for folder, facts in candidates:
        same, run = facts["weights_sha256"] == digest, f"{folder.parent.name}, seed {facts['seed']}"
        if folder in recorded:
            other = "" if same else f"; trained on {facts['weights']}, here the weights are from {weights.source}"
            return Weights(folder, f"recorded in data/runs: {run}{other}")
        if same:
            kind = "notebook 05" if folder.parents[1].name == "notebooks" else "`make run`"
            return Weights(folder, f"left by {kind}: {run}, {facts['date']}")
    what = f"no adapter of a finished run of profile {profile.name!r} on these weights"
    where = f"neither in {without_root(str(outputs))} nor recorded in data/runs"
    raise FileNotFoundError(f"{what}, {where}; run notebook 05, or `make run PROFILE={profile.name}`")


def load(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """`model` with the saved adapter on top, ready to generate; raises what `check` does."""
    check(folder)
    return PeftModel.from_pretrained(model, folder).eval()


def save(model: PeftModel, folder: str | Path, profile: Profile) -> None:
    """Write adapter and configuration to `folder`; the base model is named as the profile names it, not by its path."""
    # Left to itself PEFT would ask the hub whether the vocabulary was changed; the embeddings are frozen here.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path, named = Path(folder) / FILES[1], {"base_model_name_or_path": without_root(profile.model)}
    write_json(path, read_json(path) | named | {"revision": profile.revision})


def model_card(run: Path) -> str:
    """A model card from a run's run.json and comparison.csv (rates with their 95 % intervals), and nothing else."""
    facts, results, questions = read_json(run / "run.json"), None, None
    if (path := run / "comparison.csv").is_file():
        table = pd.read_csv(path)
        shown = {t: as_percentages(x.set_index("rate")).drop(columns="p") for t, x in table.groupby("temperature")}
        results, questions = pd.concat(shown, names=["temperature (0: greedy)"]).reset_index(), table["n"].iloc[0]
    more = {"hub_name": HUB_NAME, "gguf": PurePosixPath(PACKAGE_GGUF), "results": results, "questions": questions}
    options = {"undefined": StrictUndefined, "trim_blocks": True, "keep_trailing_newline": True}
    return Template(CARD.read_text(encoding="utf-8"), **options).render(facts | facts["profile"] | more)


def write_card(run: Path) -> Path:
    """Write the model card to <run>/adapter/README.md, where the hub looks for it."""
    path = run / "adapter" / "README.md"
    write_text(path, model_card(run))
    return path


def push(folder: str | Path, repo: str) -> str:
    """Upload an adapter with its card to the hub, and return its address. Nothing else in this package uploads.

    `repo` is "user/name"; it is made if need be, and private. Without a token it is a PermissionError, without a file
    of the adapter, or its card, a FileNotFoundError.
    """
    check(folder)
    if not (Path(folder) / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md; write the model card first (adapters.write_card)")
    if not huggingface_hub.get_token():
        raise PermissionError("no token for the hub: run `hf auth login`, or set HF_TOKEN, and push again")
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo, private=True, exist_ok=True)
    api.upload_folder(folder_path=str(folder), repo_id=repo, allow_patterns=list(FILES))
    return str(url)
