"""Checks for the exercises of notebook 02."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy.stats import hypergeom

from ._exercise import exercise, expect


@exercise
def read_gold(function: Callable[..., Any]) -> None:
    """GSM8K's gold answer as a float, or None when there is no number after the last ####."""
    cases = {
        "a plain answer": ("6 * 12 = <<6*12=72>>72 cups\n#### 72", 72.0),
        "a decimal": ("7 / 2 = <<7/2=3.5>>3.5 km\n#### 3.5", 3.5),
        "a comma": ("#### 1,000", 1000.0),
        "a dollar sign and cents": ("#### $1,234.50", 1234.5),
        "a negative number": ("#### -5", -5.0),
        "no hash marks": ("The answer is 72.", None),
        "hash marks, then nothing": ("6 * 12\n####", None),
        "words after the hash marks": ("#### seventy-two", None),
        "hash marks twice": ("#### 12 was wrong\n#### 72", 72.0),
    }
    for case, (text, wanted) in cases.items():
        expect(function(text), wanted, f"{case}, {text!r}")


@exercise
def silent_chance(function: Callable[..., Any]) -> None:
    """The chance that a group is tied when a right answer, of probability p, is all that pays: p^G + (1-p)^G."""
    for p, size in ((0.5, 2), (0.1, 8), (0.9, 8), (0.0, 4), (1.0, 4), (0.3, 1)):
        expect(function(p, size), p**size + (1 - p) ** size, f"p={p}, group_size={size}")


@exercise
def chance_of_a_pass(function: Callable[..., Any]) -> None:
    """The unbiased estimate of pass@k from c right answers among n."""
    for n, c, k in ((4, 1, 1), (4, 1, 2), (16, 3, 8), (8, 0, 8), (8, 8, 1), (5, 3, 3), (10, 2, 9)):
        expect(function(n, c, k), float(hypergeom.sf(0, n, c, k)), f"n={n}, c={c}, k={k}")
