from ._exercise import Solution, decided, exercise, expect, least, short_run


@exercise
def tied_chance(function: Solution) -> None:
    """The chance that a group is tied when a right answer, of probability p, is all that pays: p^G + (1-p)^G."""
    for p, size in ((0.5, 2), (0.1, 8), (0.9, 8), (0.0, 4), (1.0, 4), (0.3, 1)):
        expect(function(p, size), p**size + (1 - p) ** size, f"p={p}, group_size={size}")


@exercise
def choose_a_limit(function: Solution) -> None:
    """The lowest limit with which half as many right answers come as with the highest; the next lower one tried."""
    got, made = decided(function, lambda limit, /: short_run(max_completion_length=limit))
    right = {limit: history["rewards/correctness_reward_func/mean"].tail(5).mean() for limit, history in made.items()}
    least(got, (24, 32, 48, 80), right, 0.5, "correctness")
