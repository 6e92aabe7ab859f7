from ._exercise import NotYet, Solution, exercise, expect, expect_each, short_run


@exercise
def merged_weight(function: Solution) -> None:
    """W + alpha / rank · B A, for W (outputs, inputs), A (rank, inputs), B (outputs, rank)."""
    import torch

    cases = {
        "rank 1, alpha 1": ([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]], [[1.0, 2.0, 3.0]], [[1.0], [-1.0]], 1),
        "rank 2, alpha 8": ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]], 8),
        "rank 4, alpha 2": ([[1.0, 1.0]], [[1.0, 2.0]] * 4, [[1.0, 1.0, 1.0, 1.0]], 2),
    }
    for case, (*matrices, alpha) in cases.items():
        w, a, b = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)
        wanted = (w + alpha / len(a) * (b @ a)).tolist()
        expect(function(w, a, b, alpha), wanted, case)
        if w.tolist() != matrices[0]:
            raise NotYet(f"for {case} your function changed W itself; return a new tensor, W is still needed")


@exercise
def most_completions(function: Solution) -> None:
    """The largest whole number of completions whose KV cache fits into `free_gb` (10^9 bytes)."""
    cases = {
        "Qwen2.5-1.5B, 768 tokens each, 10.6 GB free": (10.6, 28, 2, 128, 768, 2),
        "the same with one KV head for each of 12 query heads": (10.6, 28, 12, 128, 768, 2),
        "SmolLM2-135M in float32, 512 tokens each": (1.0, 30, 3, 64, 512, 4),
        "exactly a hundred fit": (1.0, 5, 5, 100, 1000, 2),
        "not even one fits": (0.01, 28, 2, 128, 768, 2),
    }
    for case, (free_gb, layers, kv_heads, head_dim, tokens, size) in cases.items():
        wanted = int(free_gb * 1e9 // (2 * layers * kv_heads * head_dim * size * tokens))
        expect(function(free_gb, layers, kv_heads, head_dim, tokens, size), wanted, case)


@exercise
def next_scale(function: Solution) -> None:
    """(scale, good steps in a row) after one more step, by the rule of torch.amp.GradScaler."""
    cases = {
        "a good step": ((65536.0, 1998, False), (65536.0, 1999)),
        "an overflow": ((1024.0, 1500, True), (512.0, 0)),
        "the 2000th good step in a row": ((65536.0, 1999, False), (131072.0, 0)),
        "an overflow after 1999 good steps": ((65536.0, 1999, True), (32768.0, 0)),
    }
    expect_each(function, cases)


@exercise
def find_the_rate(function: Solution) -> None:
    """The best of at most four rates tried, with a lower and a higher one beside it that end lower."""
    ends: dict[float, float] = {}

    def train(rate: float) -> float:
        if rate not in ends:
            if len(ends) == 4:
                raise NotYet(f"for a fifth run there is no time; you have tried {sorted(ends)}")
            ends[rate] = float(short_run(learning_rate=rate)["reward"].tail(5).mean())
        return ends[rate]

    got = function(train)
    if got not in ends:
        raise NotYet(f"for your search your function returned {got!r}; return one of the rates tried, {sorted(ends)}")
    if ends[got] < max(ends.values()):
        raise NotYet(f"for {got:g} another rate ends higher: {ends}")
    for side, tried in (("lower", min(ends)), ("higher", max(ends))):
        if tried == got:
            raise NotYet(f"for {got:g} nothing {side} was tried, so the best may lie there: {ends}")
