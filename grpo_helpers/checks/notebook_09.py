from ._exercise import NotYet, Solution, decided, exercise, expect, short_run

SPLITS, COMPARED = [(64, 1), (16, 1), (16, 4), (32, 2), (64, 4)], ["reward", "grad_norm"]  # (batch, accumulation)


@exercise
def same_run(function: Solution) -> None:
    """The splits that make the same run as the first: equal rewards, and equal gradients up to rounding."""
    got, made = decided(function, lambda size, times: short_run(batch=size, accumulation=times, steps=2))
    if not isinstance(got, list | tuple) or any(split not in SPLITS for split in got):
        raise NotYet(f"for the splits your function returned {got!r}; return a list of some of {SPLITS}")
    if missing := [split for split in SPLITS if split not in made]:
        raise NotYet(f"for a verdict on all of them these runs are missing: {missing}")
    for split in SPLITS:
        gap = (made[split][COMPARED] - made[SPLITS[0]][COMPARED]).abs().max()
        if (split in got) != (gap["reward"] == 0 and gap["grad_norm"] < 0.01):
            told = ", ".join(f"{name} up to {value:.2g}" for name, value in gap.items())
            raise NotYet(f"for {split} your verdict is wrong; the difference to {SPLITS[0]} is {told}")


@exercise
def local_loss(function: Solution) -> None:
    """What a process returns, so that the mean over processes is the mean over all their tokens."""
    cases = {
        "two processes, 3 and 1 tokens": [[1.0, 2.0, 3.0], [6.0]],
        "one process": [[1.0, 2.0]],
        "four processes": [[4.0], [0.0, 0.0], [1.0, 1.0, 1.0], [2.0] * 9],
    }
    for case, processes in cases.items():
        tokens = sum(map(len, processes))
        for rank, losses in enumerate(processes):
            wanted = sum(losses) * len(processes) / tokens
            expect(function(list(losses), tokens, len(processes)), wanted, f"{case}, process {rank}: {losses}")
