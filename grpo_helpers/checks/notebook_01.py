from math import exp
from statistics import fmean, stdev

from ._exercise import NotYet, Solution, exercise, expect, expect_each


@exercise
def keeps_options(beta: Solution) -> None:
    """A beta whose best policy, p ∝ reference · e^(reward / beta), earns 2.4 points and keeps each reply at 5 %."""
    if not hasattr(beta, "__float__") or not beta > 0:
        raise NotYet(f"beta is a number above 0, not {beta!r}")
    reference, rewards = (0.1, 0.2, 0.5, 0.2), (4.0, 0.0, 2.0, 2.0)  # of the four-reply policy
    weights = [p * exp((reward - max(rewards)) / beta) for p, reward in zip(reference, rewards, strict=True)]
    chances = [w / sum(weights) for w in weights]
    points = sum(p * reward for p, reward in zip(chances, rewards, strict=True))
    if points < 2.4:
        raise NotYet(f"at beta {beta:g} it earns only {points:.3f} points on average")
    if min(chances) < 0.05:
        raise NotYet(f"at beta {beta:g} one reply is left with {min(chances):.2%}")


@exercise
def learns_from(function: Solution) -> None:
    """Whether a token still moves the policy: False where the clip binds or the advantage is 0."""
    cases = {
        "a token of a good completion, still inside": ((1.1, 1.0, 0.2, 0.28), True),
        "a good one, already raised enough": ((1.4, 1.0, 0.2, 0.28), False),
        "a good one between 1.2 and 1.28": ((1.25, 1.0, 0.2, 0.28), True),
        "the same under a symmetric clip": ((1.25, 1.0, 0.2, 0.2), False),
        "a good one that has become rarer": ((0.5, 0.3, 0.2, 0.28), True),
        "a bad one, already lowered enough": ((0.75, -1.0, 0.2, 0.28), False),
        "a bad one that has become likelier": ((1.9, -2.0, 0.2, 0.28), True),
        "a bad one, inside a wider clip": ((0.75, -0.1, 0.3, 0.2), True),
        "an advantage of 0": ((1.0, 0.0, 0.2, 0.28), False),
    }
    expect_each(function, cases)


@exercise
def step_by_hand(function: Solution) -> None:
    """d loss / d log-probability of a token of each completion: loss "grpo", first pass over one group."""
    cases = {
        "equal lengths": ([4.0, 0.0, 2.0, 2.0], [10, 10, 10, 10]),
        "the wrong one is long": ([4.0, 0.0], [5, 50]),
        "a tie": ([1.0, 1.0, 1.0], [3, 7, 30]),
        "one success among six": ([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [8, 9, 4, 12, 30, 7]),
    }
    for case, (rewards, lengths) in cases.items():
        mean, scale = fmean(rewards), (stdev(rewards) + 1e-4) * len(rewards)
        wanted = [(mean - r) / scale / n for r, n in zip(rewards, lengths, strict=True)]
        expect(function(list(rewards), list(lengths)), wanted, f"{case}, rewards={rewards}, lengths={lengths}")
