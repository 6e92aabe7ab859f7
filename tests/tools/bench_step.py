"""Where the seconds of a step go, phase by phase, and the least that this machine could take for each.

The floor of a phase is its matrix products at the fastest rate measured here,
or its traffic with memory at the bandwidth measured here, whichever is longer.
Nothing between the products (norms, softmax, Python) is granted any time, and
attention, which is 2 to 5 % of the arithmetic, is left out.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import wraps
from os.path import commonprefix
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback

import grpo_helpers.fast.sampling as sampling
import grpo_helpers.fast.trainer as shared
from grpo_helpers.models import causal_lm

PHASES = {
    "merge adapters": "the weights with adapters, read and written",
    "prefill": "prompts through the trunk",
    "decode": "tokens one after another through trunk and head: all weights read for each",
    "rewards": "reading the replies",
    "scoring": "prompts and completions through the trunk, completions through the head",
    "backward": "the same trunk once more: only the adapters want gradients, the frozen weights none",
    "optimizer": "the adapters' weights",
    "the rest": "TRL and transformers: data, padding, loss, logging",
}


class Steps(TrainerCallback):
    """Wall seconds from one step's end to the next; the first, which warms up, is left out by `seconds`."""

    def __init__(self, at_end: Any = None) -> None:
        self.seconds: list[float] = []
        self.at_end, self.last = at_end, 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        if self.at_end:
            self.at_end()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds[1:])


class Stopwatch:
    """Seconds spent in named pieces of a step, a piece inside another not counted twice."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []
        self.inner = [0.0]

    def end_step(self) -> None:
        self.steps.append(dict(self.now))
        self.now.clear()

    @contextlib.contextmanager
    def piece(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.inner.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.now[name] += whole - self.inner.pop()
            self.inner[-1] += whole

    def around(self, owner: Any, attribute: str, name: str, undo: contextlib.ExitStack) -> None:
        """Time every call of `owner.attribute` until `undo` closes."""
        original = getattr(owner, attribute)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.piece(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)
        undo.callback(setattr, owner, attribute, original)


def step_phases(trainer: Any) -> dict[str, float]:
    """Train, and return the median seconds of a step for each of PHASES."""
    watch, merge = Stopwatch(), sampling.quick_adapters

    @contextlib.contextmanager
    def timed_merge(model: torch.nn.Module) -> Iterator[None]:
        with watch.piece("merge adapters"), merge(model), watch.piece("decode"):
            yield

    steps = Steps(watch.end_step)
    trainer.add_callback(steps)
    with contextlib.ExitStack() as undo:
        sampling.quick_adapters = timed_merge
        undo.callback(setattr, sampling, "quick_adapters", merge)
        for owner, attribute, name in (
            (sampling, "prefill", "prefill"),
            (trainer, "_calculate_rewards", "rewards"),
            (shared, "completion_logps", "scoring"),
            (trainer.accelerator, "backward", "backward"),
            (trainer.accelerator, "clip_grad_norm_", "optimizer"),
            (torch.optim.AdamW, "step", "optimizer"),
        ):
            watch.around(owner, attribute, name, undo)
        trainer.train()
    rows = [
        row | {"the rest": whole - sum(row.values())} for row, whole in zip(watch.steps, steps.seconds, strict=True)
    ]
    return {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) for name in PHASES}


def best_seconds(work: Any, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def machine(model: torch.nn.Module, rows: int) -> dict[str, float]:
    """Best rate of the model's own matrix products with so many rows (GFLOP/s), and memory bandwidth (GB/s)."""
    weights = [m.get_base_layer().weight if hasattr(m, "get_base_layer") else m.weight for m in linears(model)]
    shapes = {w.shape: w.detach() for w in weights}.values()

    def rate(weight: torch.Tensor) -> float:
        x = torch.randn(rows, weight.shape[1], dtype=weight.dtype)
        return 2 * rows * weight.numel() / best_seconds(lambda: x @ weight.T) / 1e9

    source = torch.ones(64_000_000)  # a quarter of a GB, far beyond any cache
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best_seconds(lambda: target.copy_(source)) / 1e9
    return {"gemm_gflops": max(map(rate, shapes)), "bandwidth_gb_s": bandwidth}


def linears(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The linear layers of a model: those with an adapter as a whole, the others as they are."""
    adapted = [m for m in model.modules() if isinstance(m, LoraLayer)]
    inside = {id(part) for m in adapted for part in m.modules()}
    return adapted + [m for m in model.modules() if isinstance(m, torch.nn.Linear) and id(m) not in inside]


def floor(
    model: torch.nn.Module, prompts: list[list[int]], completions: int, tokens: int, speed: dict[str, float]
) -> dict[str, float]:
    """Seconds that each phase of a step cannot undercut: `completions` of `tokens` tokens on these distinct prompts."""
    lm = causal_lm(model)
    head = lm.lm_head.weight
    adapted = [m.get_base_layer().weight for m in lm.modules() if isinstance(m, LoraLayer)]
    trunk = sum(m.weight.numel() for m in linears(lm) if m is not lm.lm_head and not isinstance(m, LoraLayer))
    trunk += sum(w.numel() for w in adapted)
    adapters = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    common = len(commonprefix(prompts))
    asked, written = common + sum(len(p) - common for p in prompts), completions * tokens

    def products(weights: float, rows: float) -> float:
        return 2 * weights * rows / (1e9 * speed["gemm_gflops"])

    def traffic(nbytes: float) -> float:
        return nbytes / (1e9 * speed["bandwidth_gb_s"])

    read = (trunk + head.numel()) * head.element_size()
    return {
        "merge adapters": traffic(2 * sum(w.nbytes for w in adapted)),
        "prefill": products(trunk, asked),
        "decode": tokens * max(products(trunk + head.numel(), completions), traffic(read)),
        "rewards": 0.0,
        # the gradient through the head is worked out along the way: its product counts twice
        "scoring": products(trunk, asked + written) + products(2 * head.numel(), written),
        "backward": products(trunk, asked + written),
        "optimizer": traffic(5 * adapters),  # weight and two moments read and written, gradient read: AdamW
        "the rest": 0.0,
    }
