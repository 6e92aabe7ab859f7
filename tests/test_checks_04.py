"""The checks of notebook 04's exercises tell near misses from solutions."""

from __future__ import annotations

import pytest

from grpo_helpers import checks

CHECKS = (checks.merged_weight, checks.most_completions, checks.next_scale)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert not output.err
    return output.out


@pytest.mark.parametrize("check", CHECKS)
def test_an_unsolved_or_broken_exercise_is_reported(check, capsys):
    def unsolved(*args):
        return None

    def broken(*args):
        raise KeyError("rank")

    check(unsolved)
    assert said(capsys).startswith("Not yet: for ")
    check(broken)
    assert said(capsys) == "Not yet: broken raised KeyError: 'rank'\n"
    check(lambda: None)
    assert "raised TypeError" in said(capsys)


def changes_w(w, a, b, alpha):
    w += alpha / a.shape[0] * b @ a
    return w


MERGES = {
    "no scale": lambda w, a, b, alpha: w + b @ a,
    "alpha not divided": lambda w, a, b, alpha: w + alpha * b @ a,
    "divided by the outputs": lambda w, a, b, alpha: w + alpha / b.shape[0] * b @ a,
    "the wrong way round": lambda w, a, b, alpha: w + alpha / a.shape[0] * a @ b,
    "the correction alone": lambda w, a, b, alpha: alpha / a.shape[0] * b @ a,
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_a_wrong_merge_is_not_accepted(merge, capsys):
    checks.merged_weight(merge)
    assert said(capsys).startswith("Not yet: ")


def test_a_merge_that_changes_the_weight_itself_is_told_so(capsys):
    checks.merged_weight(changes_w)
    assert "changed W itself" in said(capsys)


CACHES = {
    "keys only": lambda gb, layers, kv, dim, tokens, size: int(gb * 1e9 // (layers * kv * dim * size * tokens)),
    "GiB": lambda gb, layers, kv, dim, tokens, size: int(gb * 2**30 // (2 * layers * kv * dim * size * tokens)),
    "two bytes always": lambda gb, layers, kv, dim, tokens, size: int(gb * 1e9 // (4 * layers * kv * dim * tokens)),
    "rounded": lambda gb, layers, kv, dim, tokens, size: round(gb * 1e9 / (2 * layers * kv * dim * size * tokens)),
    "at least one": lambda gb, layers, kv, dim, tokens, size: max(
        1, int(gb * 1e9 // (2 * layers * kv * dim * size * tokens))
    ),
}


@pytest.mark.parametrize("count", CACHES.values(), ids=CACHES)
def test_a_wrong_count_of_completions_is_not_accepted(count, capsys):
    checks.most_completions(count)
    assert said(capsys).startswith("Not yet: for ")


SCALES = {
    "never grows": lambda scale, good, overflow: (scale / 2, 0) if overflow else (scale, good + 1),
    "a step late": lambda scale, good, overflow: (
        (scale / 2, 0) if overflow else (scale * 2, 0) if good == 2000 else (scale, good + 1)
    ),
    "overflow keeps the count": lambda scale, good, overflow: (
        (scale / 2, good) if overflow else (scale * 2, 0) if good == 1999 else (scale, good + 1)
    ),
    "growth keeps the count": lambda scale, good, overflow: (
        (scale / 2, 0) if overflow else (scale * 2, 2000) if good == 1999 else (scale, good + 1)
    ),
}


@pytest.mark.parametrize("rule", SCALES.values(), ids=SCALES)
def test_a_wrong_rule_for_the_scale_is_not_accepted(rule, capsys):
    checks.next_scale(rule)
    assert said(capsys).startswith("Not yet: for ")


def test_the_rule_asked_for_is_that_of_torch():
    import torch

    scaler = torch.amp.GradScaler("cpu")
    assert (scaler.get_backoff_factor(), scaler.get_growth_factor(), scaler.get_growth_interval()) == (0.5, 2.0, 2000)
