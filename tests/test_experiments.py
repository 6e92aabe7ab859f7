"""Recorded experiments: what is written can be loaded, and half a record counts as none."""

from __future__ import annotations

import pandas as pd
import pytest

from grpo_helpers import experiments, records
from grpo_helpers.experiments.__main__ import main
from grpo_helpers.files import read_json
from grpo_helpers.profiles import TINY

NAME = "prompt_variants"
TABLES = {"rates": pd.DataFrame({"variant": ["a", "b"], "strict": [0.25, 0.5]}), "replies": pd.DataFrame({"n": [1]})}


@pytest.fixture
def quick(monkeypatch):
    """An experiment that takes no time."""
    monkeypatch.setattr(experiments, "get_experiment", lambda name: lambda profile, seed: TABLES)


def test_a_record_can_be_loaded_and_says_where_it_comes_from(quick, tmp_path):
    target = experiments.record(NAME, TINY, seed=7, runs=tmp_path)
    assert target.name == "prompt_variants-tiny-7"
    loaded = records.load(NAME, "tiny", 7, runs=tmp_path)
    assert list(loaded) == ["rates", "replies"]
    pd.testing.assert_frame_equal(loaded["rates"], TABLES["rates"])
    facts = read_json(target / "run.json")
    assert facts["command"] == "python -m grpo_helpers.experiments prompt_variants --profile tiny --seed 7"
    assert facts["seed"] == 7 and facts["profile"]["name"] == "tiny"
    assert {"versions", "hardware", "commit", "weights_sha256"} <= set(facts)
    assert records.available(NAME, runs=tmp_path) == [("tiny", 7)]


def test_a_record_without_provenance_is_none(quick, tmp_path):
    target = experiments.record(NAME, TINY, runs=tmp_path)
    (target / "run.json").unlink()
    assert records.available(NAME, runs=tmp_path) == []
    with pytest.raises(FileNotFoundError, match="experiments prompt_variants --profile tiny --seed 42"):
        records.load(NAME, "tiny", runs=tmp_path)


def test_an_experiment_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def fails(profile, seed):
        raise ValueError("no such thing")

    monkeypatch.setattr(experiments, "get_experiment", lambda name: fails)
    assert main([NAME, "--profile", "tiny", "--output", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_experiment_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="'prompts'.*prompt_variants"):
        experiments.get_experiment("prompts")


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_exists(name):
    assert callable(experiments.get_experiment(name))
