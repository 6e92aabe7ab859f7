"""Checks for the exercises of notebook 09."""

from ._exercise import Solution, exercise, expect, expect_each


@exercise
def same_step(function: Solution) -> None:
    """The accumulation with which a step has so many prompts, 0 if there is none."""
    cases = {
        "16 prompts in groups of 8, one GPU with a batch of 8": ((16, 8, 1, 8), 16),
        "the same on eight GPUs": ((16, 8, 8, 8), 2),
        "64 prompts in groups of 4 on 16 GPUs with a batch of 16": ((64, 4, 16, 16), 1),
        "a batch that holds half a group": ((3, 8, 2, 4), 3),
        "16 prompts in groups of 8 on three GPUs": ((16, 8, 3, 8), 0),
    }
    expect_each(function, cases)


@exercise
def local_loss(function: Solution) -> None:
    """What a process returns, so that the mean over processes is the mean over all their tokens."""
    cases = {
        "two processes, 3 and 1 tokens": [[1.0, 2.0, 3.0], [6.0]],
        "one process": [[1.0, 2.0]],
        "four processes": [[4.0], [0.0, 0.0], [1.0, 1.0, 1.0], [2.0] * 10],
    }
    for case, processes in cases.items():
        tokens = sum(map(len, processes))
        for rank, losses in enumerate(processes):
            wanted = sum(losses) * len(processes) / tokens
            expect(function(list(losses), tokens, len(processes)), wanted, f"{case}, process {rank}: {losses}")


@exercise
def fewest_gpus(function: Solution) -> None:
    """GPUs needed when 16 bytes a parameter are sliced and `rest_gb` is on each of them; 0 if no number will do."""
    cases = {
        "1.5 billion parameters, 4 GB of the rest, GPUs of 16 GB": ((1.5, 4, 16), 2),
        "7 billion parameters, 10 GB of the rest, GPUs of 80 GB": ((7, 10, 80), 2),
        "7 billion parameters, 10 GB of the rest, GPUs of 24 GB": ((7, 10, 24), 8),
        "a policy that one GPU holds": ((0.5, 4, 16), 1),
        "a rest that is too large by itself": ((7, 24, 24), 0),
    }
    expect_each(function, cases)
