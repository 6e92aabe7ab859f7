"""Checks for the exercises of notebook 08."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from ._exercise import exercise, expect


@exercise
def chance_of_luck(function: Callable[..., Any]) -> None:
    """The chance that n equal runs all end up above, or all below, m others of the same kind: 2 / C(n + m, n)."""
    for (n, m), wanted in {(1, 1): 1.0, (3, 3): 0.1, (3, 6): 2 / 84, (2, 5): 2 / 21, (5, 5): 2 / 252}.items():
        expect(function(n, m), wanted, f"n={n}, m={m}")


@exercise
def reached_at(function: Callable[..., Any]) -> None:
    """Completions sampled when the mean of the seeds first reaches an accuracy; None if it never does."""
    rows = [(1, 0, 0.0), (1, 256, 0.5), (1, 512, 0.3), (1, 768, 0.9), (2, 0, 0.1), (2, 256, 0.3), (2, 512, 0.9)]
    curves = pd.DataFrame([*rows, (2, 768, 0.7)], columns=["seed", "completions", "flexible"])
    cases = {0.04: 0, 0.35: 256, 0.5: 512, 0.75: 768, 0.95: None}
    for accuracy, wanted in cases.items():
        expect(function(curves, accuracy), wanted, f"accuracy {accuracy} of two seeds")
    shuffled = curves.sample(frac=1, random_state=0)
    expect(function(shuffled, 0.35), 256, "the same rows in another order")


@exercise
def what_differs(function: Callable[..., Any]) -> None:
    """The names, sorted, of the fields in which two configurations differ; one that only one has counts."""
    usual = {"learning_rate": 2e-3, "loss_type": "dapo", "beta": 0.0}
    two = ["learning_rate", "loss_type"]
    cases = {
        "two equal ones": (usual, dict(usual), []),
        "another loss type": (usual, usual | {"loss_type": "grpo"}, ["loss_type"]),
        "another rate and loss type": (usual, usual | {"loss_type": "x", "learning_rate": 1e-3}, two),
        "a field that only the second has": (usual, usual | {"epsilon": 0.2}, ["epsilon"]),
        "a field that only the first has": (usual, {k: v for k, v in usual.items() if k != "beta"}, ["beta"]),
        "a field set to None": ({"epsilon_high": None}, {}, ["epsilon_high"]),
    }
    for case, (a, b, wanted) in cases.items():
        expect(function(dict(a), dict(b)), wanted, case)
